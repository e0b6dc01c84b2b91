"""What a training run is told: frozen dataclasses whose fields are the command line's flags."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Suppress

from train.architecture import AnyModel, ViTConfig


class ConfigError(ValueError):
    """A flag has a value that no run can have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are fed."""

    dataset: str
    """"digits", or a TFDS set of labelled images by name, such as cifar100."""
    data_dir: Path | None = None
    """TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own."""
    num_classes: int | None = None
    """Classes that the data set must have; by default whatever it has."""
    validation: float = 0.1
    """Part of the training split that is held out for validation."""
    image_size: int | None = None
    """Edge in pixels to which images are resized and cropped; by default as they are."""
    batch_size: int = 128
    """Images a step."""
    crop_padding: int = 0
    """Pixels of zero padding for random crops; 0 for none."""
    flip: bool = False
    """Mirror images at random."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to 0."""

    epochs: int
    """Passes over the training images."""
    learning_rate: float = 1e-3
    """Largest learning rate."""
    warmup: float = 0.1
    """Part of the steps over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Decoupled decay of the kernels."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; by default it is not clipped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """The pull on slopes toward 1, and what is collapsed in the end."""

    strength: float
    """Weight of the penalty; for l1 the loss that one is ready to pay for a site."""
    penalty: Literal["l1", "l2"] = "l1"
    """l1: sites choose themselves; l2: the paper's."""
    slope_learning_rate: float = 0.2
    """Learning rate of the slopes; 0 leaves them where they are."""
    start: float = 0.0
    """Part of the steps before slopes begin to move; the network is a plain one until then."""
    last: int | float | None = None
    """How many sites, from the last backwards, or which fraction of them; by default all."""
    where: str | None = None
    """Glob over site paths, such as "block_3/*"; by default all."""
    threshold: float = 0.05
    """Largest gap |1 - slope| at which a site is collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run is kept and how it is watched."""

    name: str | None = None
    """Directory under runs-dir; by default the preset's name, numbered where it is taken."""
    runs_dir: Path = Path("runs")
    """Where runs are kept."""
    resume: bool = False
    """Continue the unfinished run of this name."""
    overwrite: bool = False
    """Replace the run of this name."""
    seed: int = 0
    """Of initial params, order of images, augmentation and dropout."""
    steps_per_dispatch: int = 50
    """Most steps the device takes before it reports back; 1 where images are streamed."""
    log_every: int = 10
    """Steps between two records of the metrics."""
    checkpoint_every: int = 500
    """Steps between two checkpoints of the run, at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A run on images."""

    preset: Suppress[str]
    data: DataConfig
    model: AnyModel
    optimizer: OptimizerConfig
    penalty: PenaltyConfig
    run: RunConfig = RunConfig()


def as_json(config: Any) -> dict[str, Any]:
    """Returns a config as what JSON would give back: dicts, lists, strings and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def check(config: Config) -> None:
    """Raises where a flag's value is out of range.

    Raises:
      ConfigError: names the flag, its value and what was wanted.
    """
    data, optimizer, penalty, run = config.data, config.optimizer, config.penalty, config.run
    for owner, name in (
        (data, "batch_size"),
        (optimizer, "epochs"),
        (run, "steps_per_dispatch"),
        (run, "log_every"),
        (run, "checkpoint_every"),
    ):
        _require(owner, name, lambda value: value >= 1, "at least 1")
    for name in ("num_classes", "image_size"):
        _require(data, name, lambda value: value is None or value >= 1, "at least 1")
    _require(data, "crop_padding", lambda value: value >= 0, "at least 0")
    _require(data, "validation", lambda value: 0 < value < 1, "between 0 and 1, both excluded")
    _require(config.model, "dropout", lambda value: 0 <= value < 1, "in [0, 1)")
    for field in dataclasses.fields(config.model):
        if field.type is int:
            _require(config.model, field.name, lambda value: value >= 1, "at least 1")
        if field.name == "hidden":
            _require(config.model, "hidden", lambda widths: min(widths, default=1) >= 1, "positive")
    if isinstance(config.model, ViTConfig):
        width = config.model.width
        _require(config.model, "num_heads", lambda n: width % n == 0, f"a divisor of width {width}")
    _require(optimizer, "learning_rate", _positive, "a positive number")
    _require(optimizer, "warmup", lambda value: 0 <= value < 1, "in [0, 1)")
    _require(optimizer, "weight_decay", lambda value: 0 <= value < math.inf, "at least 0")
    _require(optimizer, "clip_norm", lambda v: v is None or _positive(v), "a positive number")
    _require(penalty, "strength", lambda value: 0 <= value < math.inf, "at least 0")
    _require(penalty, "slope_learning_rate", lambda value: 0 <= value < math.inf, "at least 0")
    _require(penalty, "start", lambda value: 0 <= value < 1, "in [0, 1)")
    _require(penalty, "threshold", lambda value: value >= 0, "at least 0")
    _require(run, "seed", lambda value: 0 <= value < 2**32, "in [0, 2^32)")


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _require(owner: Any, name: str, accepted: Callable[[Any], bool], wanted: str) -> None:
    value = getattr(owner, name)
    if not accepted(value):
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; wanted {wanted}.")
