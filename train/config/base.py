"""Configuration of a run: frozen dataclasses whose fields are the command line's flags."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from tyro.conf import Suppress, arg

from train.config.calibrated import ProtocolConfig
from train.config.protocol import PenaltyProtocolConfig
from train.models.base import ModelConfig
from train.runtime.devices import DevicesConfig
from train.validation import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set and its batches."""

    dataset: str
    """Name of a TFDS set."""
    data_dir: Path | None = None
    """TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own."""
    validation: float = 0.1
    """Fraction of the training split held out for validation."""
    batch_size: int = 128
    """Examples per step."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        require(self, "batch_size", lambda value: value >= 1, "at least 1")
        require(self, "validation", lambda value: 0 < value < 1, "between 0 and 1, both excluded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledDataConfig(DataConfig):
    """Data with one label per example."""

    num_classes: int | None = None
    """Number of classes that the data set must have; by default any."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "num_classes", lambda value: value is None or value >= 1, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to 0."""

    epochs: int | float
    """Passes over the training examples."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Decoupled weight decay, of kernels only."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; by default no clipping."""
    accumulate: int = 1
    """Gradient accumulation: number of microbatches per batch."""
    remat: bool = False
    """Recompute blocks in the backward pass instead of storing their activations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """The penalty that pulls slopes to 1, and the sites it applies to."""

    strength: float
    """Weight of the penalty; for l1 the increase of the loss accepted per site."""
    penalty: Literal["l1", "l2"] = "l1"
    """l1: selects sites, their slopes reach exactly 1; l2: the paper's."""
    slope_learning_rate: float = 0.2
    """Learning rate of the slopes; 0 freezes them, which trains a plain network."""
    slope_per: Literal["site", "unit"] = "site"
    """One slope for each site, or one for each of its hidden units at the same price in all."""
    linear_units: float = 0.0
    """With --slope-per unit: fraction of the units of each site whose slopes start at 1."""
    start: float = 0.0
    """Fraction of the steps before slopes start to move; the network is a plain one until then."""
    last: int | float | None = None
    """Number of sites, or fraction of them, counted from the last; by default all."""
    where: str | None = None
    """Glob over site paths, such as "block_3/*"; by default all."""
    max_gap: float = 0.05
    """Largest gap |1 - slope| at which a site is collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Finished runs that a run starts from."""

    deep: Annotated[Path | None, arg(name="from")] = None
    """Start from the deep model of this finished run, or from a checkpoint of one."""
    collapsed_from: Path | None = None
    """Start from new params of the compact shapes: the sites that this finished run collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Training with a teacher."""

    teacher: Path | None = None
    """Train with the deep model of this finished run as teacher, or with that of a model folder."""
    teacher_weight: float = 0.5
    """Weight of the divergence from the teacher in the loss; the cross entropy has the rest."""
    teacher_temperature: float = 2.0
    """Temperature of the logits that are compared with the teacher's."""
    hidden_weight: float = 0.0
    """Weight of the relative squared difference of every block's outputs from the teacher's, next
    to the loss; 0 leaves it out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run's directory, records and checkpoints."""

    name: str | None = None
    """Directory under --runs-dir; by default the preset's name, with a number if it is taken."""
    runs_dir: Path = Path("runs")
    """Directory of the runs."""
    resume: bool = False
    """Continue the unfinished run called --name."""
    overwrite: bool = False
    """Replace the run called --name."""
    seed: int = 0
    """Seed of initial params, order of examples, augmentation and dropout."""
    steps_per_dispatch: int = 50
    """Most training steps per call of the compiled program; 1 for labelled texts and streamed
    images."""
    log_every: int = 10
    """Steps between two records of the metrics."""
    checkpoint_every: int = 500
    """Least number of steps between two checkpoints."""
    keep: int = 2
    """Number of last checkpoints to keep, besides the best one by validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A run.

    Attributes:
      kind: modality of the data: "image", "text" or "language".
    """

    kind: ClassVar[str]
    preset: Suppress[str]
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    penalty: PenaltyConfig
    protocol: ProtocolConfig = PenaltyProtocolConfig()
    init: InitConfig = InitConfig()
    distillation: DistillationConfig = DistillationConfig()
    run: RunConfig = RunConfig()
    devices: DevicesConfig = DevicesConfig()


AnyConfig = TypeVar("AnyConfig", bound=Config)


def as_json(config: Any) -> dict[str, Any]:
    """Returns a config as JSON would give it back: dicts, lists, strings and numbers."""
    fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return {"kind": config.kind, **fields} if isinstance(config, Config) else fields
