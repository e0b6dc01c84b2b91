"""Protocols of training and collapse, one dataclass each: a run has the flags of its own only."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

import lcjax
from train.validation import ConfigError, positive, require

FitName = Literal["exact", "per_unit", "least_squares"]


def _is_fit(value: Any) -> bool:
    return value in get_args(FitName)


def _fit(arguments: list[str]) -> Any:
    name = arguments[0].replace("-", "_")
    if not _is_fit(name):
        raise ValueError(f"got {arguments[0]!r}, expected exact, per-unit or least-squares")
    return name


# On the command line names have hyphens; underscores are accepted too.
_Fit = Annotated[
    FitName,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="{exact,per-unit,least-squares}",
        instance_from_str=_fit,
        is_instance=_is_fit,
        str_from_instance=lambda name: [name.replace("_", "-")],
    ),
]
_NAME = arg(
    metavar="{penalty,ramp,fit-heal,progressive,anneal,paper}",
    help="penalty: a penalty pulls slopes to 1 and selects the sites. ramp: the same with a "
    "growing strength. fit-heal: plan by measurement, collapse by a fit, train further. "
    "progressive: collapse in stages from the last site. anneal: slopes follow a schedule. paper: "
    "the published method. --protocol NAME --help lists the flags of one.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How sites become linear, and how they are collapsed."""

    protocol: str

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedConfig(ProtocolConfig):
    """A protocol that fits sites to training data."""

    fit: _Fit = "least_squares"
    """How a site is collapsed: exact, as if its slope were 1; per-unit, a gain and an offset for
    every hidden unit; least-squares, one regression per segment."""
    sequential: bool = False
    """Fit sites one after another, each on the compact model's own inputs."""
    calibration_images: int = 4096
    """Training examples that sites are fitted to: images, texts, or windows of a text."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "calibration_images", lambda value: value >= 1, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedConfig(CalibratedConfig):
    """A protocol that can select sites by what they cost on the validation split."""

    order: Literal["sensitivity", "last", "gap"] = "sensitivity"
    """Order in which sites are taken."""
    count: int | None = None
    """Number of sites to collapse."""
    target_params: int | float | None = None
    """Largest number of parameters of the compact model, or its fraction of the deep model's."""

    def size_budget(self) -> lcjax.Count | lcjax.Params | None:
        """Returns the budget of --count or --target-params; None if neither is given."""
        if self.count is not None:
            return lcjax.Count(self.count)
        return None if self.target_params is None else lcjax.Params(self.target_params)

    def check(self) -> None:
        """Raises ConfigError if a field is out of range, or two budgets are given."""
        super().check()
        require(self, "count", lambda value: value is None or value >= 1, "at least 1")
        require(
            self,
            "target_params",
            lambda value: value is None or value >= 1 or 0 < value < 1,
            "a number of at least 1, or a fraction in (0, 1)",
        )
        if self.count is not None and self.target_params is not None:
            raise ConfigError("--count and --target-params are both set; expected one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealedConfig(CalibratedConfig):
    """A protocol that trains the compact model further."""

    max_drop: float = 0.02
    """Largest loss of quality on the validation split before healing: accuracy (0 to 1), or loss of
    a language model in nats (0.02 nats are 2 % of perplexity)."""
    heal_epochs: float = 1.0
    """Epochs of training after the last collapse."""
    heal_learning_rate: float | None = None
    """Largest learning rate after the deep model; by default that of training, for progressive a
    fifth of it."""
    deep_teacher: bool = False
    """Heal with the deep model as teacher."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "max_drop", lambda value: 0 <= value <= 1, "in [0, 1]")
        require(self, "heal_epochs", lambda value: 0 <= value < math.inf, "at least 0")
        rate = "heal_learning_rate"
        require(self, rate, lambda value: value is None or positive(value), "a positive number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyProtocolConfig(ProtocolConfig):
    """The penalty alone: sites whose slope arrives at 1 are collapsed."""

    protocol: Annotated[Literal["penalty"], _NAME] = "penalty"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RampConfig(ProtocolConfig):
    """The penalty with a growing strength."""

    protocol: Annotated[Literal["ramp"], _NAME] = "ramp"
    ramp_start: float = 0.01
    """Fraction of --strength at the first step; the strength grows geometrically."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "ramp_start", lambda value: 0 < value <= 1, "in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitHealConfig(PlannedConfig, HealedConfig):
    """Plan by measurement, collapse by a fit, train further.

    Without --count and --target-params, --max-drop is the budget of the plan.
    """

    protocol: Annotated[Literal["fit-heal"], _NAME] = "fit-heal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgressiveConfig(HealedConfig):
    """Stages of penalty and collapse, from the last site backwards, until --max-drop."""

    protocol: Annotated[Literal["progressive"], _NAME] = "progressive"
    sites_per_stage: int = 1
    """Sites collapsed at the end of a stage."""
    stage_epochs: float = 1.0
    """Longest stage, in epochs; a stage ends once its gaps are within --max-gap."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "sites_per_stage", lambda value: value >= 1, "at least 1")
        require(self, "stage_epochs", positive, "a positive number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealConfig(PlannedConfig):
    """Slopes follow a schedule to 1.

    --count and --target-params select sites of a finished model (--from) by a plan; --count alone
    takes the last sites of a new model.
    """

    protocol: Annotated[Literal["anneal"], _NAME] = "anneal"
    anneal_fraction: float = 0.3
    """Fraction of the steps, after --start, over which slopes go to 1."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "anneal_fraction", lambda value: 0 < value <= 1, "in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperConfig(ProtocolConfig):
    """The published method."""

    protocol: Annotated[Literal["paper"], _NAME] = "paper"


PROTOCOL_CONFIGS: Mapping[str, type[ProtocolConfig]] = {
    "penalty": PenaltyProtocolConfig,
    "ramp": RampConfig,
    "fit-heal": FitHealConfig,
    "progressive": ProgressiveConfig,
    "anneal": AnnealConfig,
    "paper": PaperConfig,
}
# Current names by those of earlier versions.
RENAMED_PROTOCOLS = {"natural": "penalty", "reference": "paper"}
_Protocol = TypeVar("_Protocol", bound=ProtocolConfig)


def convert_protocol(protocol: ProtocolConfig, name: str) -> ProtocolConfig:
    """Returns the configuration of another protocol, with the values of the flags both have.

    Raises:
      ConfigError: if there is no protocol of this name.
    """
    if name not in PROTOCOL_CONFIGS:
        current = RENAMED_PROTOCOLS.get(name)
        hint = f" {name} is now called {current}." if current else ""
        raise ConfigError(
            f"--protocol is {name!r}; expected one of {', '.join(PROTOCOL_CONFIGS)}.{hint}"
        )
    if protocol.protocol == name:
        return protocol
    kind = PROTOCOL_CONFIGS[name]
    shared = flag_names(kind) & flag_names(type(protocol))
    return kind(**{field: getattr(protocol, field) for field in shared})  # type: ignore


def flag_names(kind: type[ProtocolConfig]) -> set[str]:
    """Returns the names of a protocol's own fields."""
    return {field.name for field in dataclasses.fields(kind)} - {"protocol"}


def check_protocol_flags(flags: list[str], protocol: ProtocolConfig) -> None:
    """Raises ConfigError if a flag belongs to other protocols than the chosen one; names both."""
    own = flag_names(type(protocol))
    for flag in (given.partition("=")[0] for given in flags if given.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_").removeprefix("no_")
        owners = [key for key, kind in PROTOCOL_CONFIGS.items() if name in flag_names(kind)]
        if owners and name not in own:
            raise ConfigError(
                f"{flag} is not a flag of --protocol {protocol.protocol} but of "
                f"{' and '.join(owners)}; leave it out or choose such a protocol."
            )
