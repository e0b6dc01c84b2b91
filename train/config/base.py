"""What a training run is told: frozen dataclasses whose fields are the command line's flags."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from tyro.conf import Suppress, arg

from train.models.architecture import ModelConfig
from train.runtime.devices import DevicesConfig
from train.validation import ConfigError, positive, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how they are fed; what every kind of data has."""

    dataset: str
    """A TFDS set by name."""
    data_dir: Path | None = None
    """TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own."""
    validation: float = 0.1
    """Part of the training split that is held out for validation."""
    batch_size: int = 128
    """Examples a step."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        require(self, "batch_size", lambda value: value >= 1, "at least 1")
        require(self, "validation", lambda value: 0 < value < 1, "between 0 and 1, both excluded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledDataConfig(DataConfig):
    """Data of which every example has one label."""

    num_classes: int | None = None
    """Classes that the data set must have; by default whatever it has."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        super().check()
        require(self, "num_classes", lambda value: value is None or value >= 1, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to 0."""

    epochs: int | float
    """Passes over the training examples."""
    learning_rate: float = 1e-3
    """Largest learning rate."""
    warmup: float = 0.1
    """Part of the steps over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Decoupled decay of the kernels."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; by default it is not clipped."""
    accumulate: int = 1
    """Parts into which a batch is cut, their gradients averaged: the memory of one part."""
    remat: bool = False
    """Compute the blocks again in the backward pass, instead of keeping what is inside them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """The pull on slopes toward 1, and what is collapsed in the end."""

    strength: float
    """Weight of the penalty; for l1 the loss that one is ready to pay for a site."""
    penalty: Literal["l1", "l2"] = "l1"
    """l1: sites choose themselves; l2: the paper's."""
    slope_learning_rate: float = 0.2
    """Learning rate of the slopes; 0 leaves them where they are, and trains a plain network."""
    start: float = 0.0
    """Part of the steps before slopes begin to move; the network is a plain one until then."""
    last: int | float | None = None
    """How many sites, from the last backwards, or which fraction of them; by default all."""
    where: str | None = None
    """Glob over site paths, such as "block_3/*"; by default all."""
    threshold: float = 0.05
    """Largest gap |1 - slope| at which a site is collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How sites become linear, and how they are collapsed."""

    protocol: Literal["natural", "ramp", "fit-heal", "progressive", "anneal", "reference"] = (
        "natural"
    )
    """natural: sites choose themselves; ramp: so under a growing strength; fit-heal: plan, collapse
    by fit, train on; progressive: in stages from the last site; anneal: slopes follow a schedule;
    reference: the published method."""
    deep: Annotated[Path | None, arg(name="from")] = None
    """Start from the deep model of this finished run, or from a checkpoint of one."""
    fit: Literal["exact", "moments", "least_squares"] = "least_squares"
    """How fit-heal and progressive collapse a site."""
    sequential: bool = False
    """fit-heal: fit sites one after another, each on the compact model's own inputs."""
    calibration_images: int = 4096
    """Training images, texts, or windows of a text, that sites are fitted to."""
    order: Literal["sensitivity", "last", "gap"] = "sensitivity"
    """fit-heal, and anneal --from with --count: the order in which sites are taken."""
    count: int | None = None
    """fit-heal and anneal: how many sites to collapse; anneal without --from takes the last."""
    target_params: int | float | None = None
    """fit-heal, and anneal --from: parameters to get down to, or the part of the deep model's that
    may stay."""
    max_drop: float = 0.02
    """By how much a model may be worse on the validation split before healing: accuracy (0 to 1),
    or loss of a language model (0.02 nats are 2 % of perplexity); fit-heal without --count and
    --target-params, and progressive."""
    heal_epochs: float = 1.0
    """fit-heal and progressive: epochs of training after the last collapse."""
    heal_learning_rate: float | None = None
    """Largest learning rate of healing, and of progressive's stages; by default that of training,
    for progressive a fifth of it."""
    deep_teacher: bool = False
    """Heal with the deep model as teacher."""
    teacher: Path | None = None
    """Train with the deep model of this finished run as teacher, as --deep-teacher heals."""
    teacher_weight: float = 0.5
    """Part of the loss that is the divergence from the teacher; the rest is the cross entropy."""
    teacher_temperature: float = 2.0
    """By which logits are divided before they are compared with the teacher's."""
    collapsed_from: Path | None = None
    """Start from new params of the compact shapes: the sites that this finished run collapsed."""
    sites_per_stage: int = 1
    """progressive: sites a stage."""
    stage_epochs: float = 1.0
    """progressive: most epochs of a stage, which ends once its gaps are within --threshold."""
    ramp_start: float = 0.01
    """ramp: part of --strength at which it starts; it grows geometrically."""
    anneal_fraction: float = 0.3
    """anneal: part of the steps, after --start, over which slopes go to 1."""


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
    """Of initial params, order of examples, augmentation and dropout."""
    steps_per_dispatch: int = 50
    """Most steps the device takes before it reports back; 1 for labelled texts and streamed
    images."""
    log_every: int = 10
    """Steps between two records of the metrics."""
    checkpoint_every: int = 500
    """Steps between two checkpoints of the run, at least."""
    keep: int = 2
    """How many of the last checkpoints of the run stay; the one that validated best stays too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A run.

    Attributes:
      kind: of the data: "image", "text" or "language".
    """

    kind: ClassVar[str]
    preset: Suppress[str]
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    penalty: PenaltyConfig
    protocol: ProtocolConfig = ProtocolConfig()
    run: RunConfig = RunConfig()
    devices: DevicesConfig = DevicesConfig()


AnyConfig = TypeVar("AnyConfig", bound=Config)


def as_json(config: Any) -> dict[str, Any]:
    """Returns a config as what JSON would give back: dicts, lists, strings and numbers."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def check(config: Config) -> None:
    """Raises where a flag's value is out of range.

    Raises:
      ConfigError: names the flag, its value and what was wanted.
    """
    optimizer, penalty, run = config.optimizer, config.penalty, config.run
    for owner, name in (
        (run, "steps_per_dispatch"),
        (run, "log_every"),
        (run, "checkpoint_every"),
        (run, "keep"),
        (optimizer, "accumulate"),
    ):
        require(owner, name, lambda value: value >= 1, "at least 1")
    config.data.check()
    config.model.check()
    config.devices.check()
    if config.data.batch_size % optimizer.accumulate:
        raise ConfigError(
            f"--accumulate is {optimizer.accumulate}, which does not divide --batch-size "
            f"{config.data.batch_size}; wanted parts of one size."
        )
    require(optimizer, "epochs", positive, "a positive number")
    require(optimizer, "learning_rate", positive, "a positive number")
    require(optimizer, "warmup", lambda value: 0 <= value < 1, "in [0, 1)")
    require(optimizer, "weight_decay", lambda value: 0 <= value < math.inf, "at least 0")
    require(optimizer, "clip_norm", lambda v: v is None or positive(v), "a positive number")
    require(penalty, "strength", lambda value: 0 <= value < math.inf, "at least 0")
    require(penalty, "slope_learning_rate", lambda value: 0 <= value < math.inf, "at least 0")
    require(penalty, "start", lambda value: 0 <= value < 1, "in [0, 1)")
    require(penalty, "threshold", lambda value: value >= 0, "at least 0")
    require(run, "seed", lambda value: 0 <= value < 2**32, "in [0, 2^32)")
    _check_protocol(config.protocol, penalty)


def _check_protocol(protocol: ProtocolConfig, penalty: PenaltyConfig) -> None:
    for name in ("calibration_images", "sites_per_stage"):
        require(protocol, name, lambda value: value >= 1, "at least 1")
    require(protocol, "count", lambda value: value is None or value >= 1, "at least 1")
    require(
        protocol,
        "target_params",
        lambda value: value is None or value >= 1 or 0 < value < 1,
        "a number of at least 1, or a part in (0, 1)",
    )
    if protocol.count is not None and protocol.target_params is not None:
        raise ConfigError("--count and --target-params are both set; wanted one of them.")
    if protocol.teacher is not None and protocol.deep_teacher:
        raise ConfigError("--teacher and --deep-teacher are both set; wanted one of them.")
    if protocol.collapsed_from is not None and protocol.deep is not None:
        raise ConfigError("--collapsed-from and --from are both set; wanted one of them.")
    require(protocol, "teacher_weight", lambda value: 0 <= value <= 1, "in [0, 1]")
    require(protocol, "teacher_temperature", positive, "a positive number")
    require(protocol, "max_drop", lambda value: 0 <= value <= 1, "in [0, 1]")
    require(protocol, "heal_epochs", lambda value: 0 <= value < math.inf, "at least 0")
    rate = "heal_learning_rate"
    require(protocol, rate, lambda v: v is None or positive(v), "a positive number")
    require(protocol, "stage_epochs", positive, "a positive number")
    require(protocol, "ramp_start", lambda value: 0 < value <= 1, "in (0, 1]")
    require(protocol, "anneal_fraction", lambda value: 0 < value <= 1, "in (0, 1]")
    if protocol.protocol == "anneal" and protocol.target_params is not None and not protocol.deep:
        raise ConfigError(
            "--target-params chooses sites by what they cost a finished model; wanted its run as "
            "--from, or --count, --last or --where instead."
        )
    if protocol.protocol == "anneal" and penalty.start + protocol.anneal_fraction > 1:
        raise ConfigError(
            f"--start is {penalty.start} and --anneal-fraction {protocol.anneal_fraction}; wanted "
            "at most 1 together, so that slopes arrive."
        )
