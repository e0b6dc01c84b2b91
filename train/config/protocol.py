"""Protocols of training and collapse, one dataclass each: a run has the flags of its own only."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from tyro.conf import arg

from train.config.calibrated import (
    FitName,
    HealedConfig,
    PlannedConfig,
    ProtocolConfig,
    fit_names,
)
from train.validation import ConfigError, positive, require

AnyFitName = Literal[FitName, "units", "mix"]
_NAME = arg(
    metavar="{penalty,ramp,fit-heal,progressive,anneal,paper}",
    help="penalty: a penalty pulls slopes to 1 and selects the sites. ramp: the same with a "
    "growing strength. fit-heal: plan by measurement, collapse by a fit, train further. "
    "progressive: collapse in stages from the last site. anneal: slopes follow a schedule. paper: "
    "the published method. --protocol NAME --help lists the flags of one.",
)


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
    fit: Annotated[AnyFitName, fit_names(AnyFitName)] = "least_squares"
    """How a site is collapsed: exact, as if its slope were 1; per-unit, a gain and an offset for
    every hidden unit; least-squares, one regression per segment; units, --keep-units hidden units
    of every site stay and the last kernel is fitted again; mix, a plan chooses among least squares,
    units, both, low rank and removal for every site, within --target-params. Units and mixes are
    fitted one site after another."""
    keep_units: int | float | None = None
    """Hidden units that --fit units keeps of every site: their number, or their fraction, which is
    rounded to a multiple of 128 on a TPU, 64 on a GPU, 8 elsewhere."""
    linear: bool = False
    """With --fit units, add a linear map of the input to the units that are kept."""
    plan: Path | None = None
    """Take the fit of every site from this file of `lcjax.plan_fits(...).save`; needs --from, or a
    file without weights."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range, or flags contradict one another."""
        super().check()
        require(
            self,
            "keep_units",
            lambda value: value is None or 0 < value < 1 or (value >= 1 and value % 1 == 0),
            "a whole number of at least 1, or a fraction in (0, 1)",
        )
        budgets = {"--count": self.count, "--target-params": self.target_params}
        units = {"--keep-units": self.keep_units, "--linear": self.linear or None}
        if self.plan is not None:
            usual = type(self)().fit
            fit = {"--fit": self.fit if self.fit != usual else None}
            return _refuse("--plan", {**fit, **units, **budgets}, "the file has the fits")
        if self.fit != "units":
            _refuse(f"--fit {self.fit}", units, "they belong to --fit units")
        elif self.keep_units is None:
            raise ConfigError("--fit units needs --keep-units, such as 0.25 or 64.")
        else:
            _refuse("--fit units", budgets, "--keep-units says the size")
        if self.fit == "mix":
            _refuse("--fit mix", {"--count": self.count}, "--target-params says the size")
            if self.target_params is None:
                raise ConfigError("--fit mix needs --target-params, such as 0.8 or 400000.")


def _refuse(flag: str, others: Mapping[str, Any], reason: str) -> None:
    """Raises ConfigError if another flag is given too."""
    for other, value in others.items():
        if value is not None:
            raise ConfigError(f"{flag} and {other} are both set; leave {other} out: {reason}.")


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
    if getattr(protocol, "fit", None) not in get_args(FitName):
        shared -= {"fit"}  # one that only the other protocol has
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
