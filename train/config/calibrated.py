"""What several protocols have in common: fits to training data, plans, healing."""

import dataclasses
import math
from typing import Annotated, Any, Literal, get_args

from tyro.constructors import PrimitiveConstructorSpec

import lcjax
from lcjax.calibration.data import Weighting
from train.validation import ConfigError, positive, require

FitName = Literal["exact", "per_unit", "least_squares"]


def fit_names(kind: Any) -> PrimitiveConstructorSpec[Any]:
    """Returns how the names of a Literal are written: with hyphens; underscores are accepted."""
    known = get_args(kind)
    shown = [name.replace("_", "-") for name in known]

    def parse(arguments: list[str]) -> Any:
        name = arguments[0].replace("-", "_")
        if name not in known:
            raise ValueError(
                f"got {arguments[0]!r}, expected {', '.join(shown[:-1])} or {shown[-1]}"
            )
        return name

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(shown)}}}",
        instance_from_str=parse,
        is_instance=lambda value: value in known,
        str_from_instance=lambda name: [name.replace("_", "-")],
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

    fit: Annotated[FitName, fit_names(FitName)] = "least_squares"
    """How a site is collapsed: exact, as if its slope were 1; per-unit, a gain and an offset for
    every hidden unit; least-squares, one regression per segment."""
    sequential: bool = False
    """Fit sites one after another, each on the compact model's own inputs."""
    calibration_images: int = 4096
    """Training examples that sites are fitted to: images, texts, or windows of a text."""
    calibration_weighting: Weighting = "equal"
    """How much tokens of these examples count in a fit: equal, alike; influence, by how much an
    error there changes the model's output, which takes a backward pass of each batch."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "calibration_images", lambda value: value >= 1, "at least 1")
        if self.fit == "exact" and self.calibration_weighting != "equal":
            raise ConfigError("--fit exact takes no data: leave --calibration-weighting out.")


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
