"""Budgets: the limit that a plan keeps to, a drop of the metric, a size, or a number of sites."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lcjax._messages import describe
from lcjax.planning.results import PlanStep
from lcjax.validation.arguments import check_number, is_count


@dataclass(frozen=True)
class Budget(ABC):
    """Base of the budgets. A plan collapses site after site until its budget is met or exceeded.

    Attributes:
      limit: the largest accepted value.
    """

    limit: Any

    @abstractmethod
    def met(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether no further step is needed; steps[0] is the deep model."""

    def exceeded(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether the last step is one too far."""
        return False

    def met_by(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether a finished plan with these steps keeps to the budget."""
        return self.met(steps)

    def most_steps(self, available: int) -> int:
        """Returns how many of the available sites a plan may try at most."""
        return available

    def __str__(self) -> str:
        """Returns the budget as the user writes it."""
        shown = f"{self.limit:g}" if self.limit < 1e6 else f"{self.limit:,}"
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True)
class MaxDrop(Budget):
    """The largest drop of the metric from the deep model's, in the metric's unit; at least 0.

    Example:
      >>> print(MaxDrop(0.5))
      MaxDrop(0.5)
    """

    limit: float

    def __post_init__(self):
        check_number("MaxDrop", self.limit)
        if not self.limit >= 0:
            raise ValueError(
                f"MaxDrop: got {self.limit}, expected at least 0, in the metric's unit."
            )

    def met(self, steps: Sequence[PlanStep]) -> bool:
        """Returns False: a drop asks for every site that it allows."""
        return False

    def exceeded(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether the metric has dropped by more."""
        return steps[0].metric - steps[-1].metric > self.limit

    def met_by(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether any site is collapsed."""
        return len(steps) > 1


@dataclass(frozen=True)
class _SizeBudget(Budget):
    limit: int | float

    def __post_init__(self):
        name = type(self).__name__
        check_number(name, self.limit, like=0.8)
        fraction = isinstance(self.limit, float) and 0 < self.limit < 1
        if not fraction and not is_count(self.limit):
            raise ValueError(
                f"{name}: got {self.limit!r}, expected a whole number of at least 1, or a fraction "
                "of the deep model's in (0, 1)."
            )

    def _within(self, deep: int, now: int) -> bool:
        return now <= (self.limit if is_count(self.limit) else self.limit * deep)


@dataclass(frozen=True)
class Params(_SizeBudget):
    """Parameters to reach: a number (int), or a fraction of the deep model's (float in (0, 1)).

    Slopes are not counted.
    """

    def met(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether the last step has no more parameters."""
        return self._within(steps[0].parameters, steps[-1].parameters)


@dataclass(frozen=True)
class Flops(_SizeBudget):
    """FLOPs to reach: a number (int), or a fraction of the deep model's (float in (0, 1)).

    Multiply-adds times two for one token through the model's chains of Dense layers.
    """

    def met(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether the last step has no more FLOPs."""
        return self._within(steps[0].flops, steps[-1].flops)


@dataclass(frozen=True)
class Count(Budget):
    """The number of sites to collapse, at least 1."""

    limit: int

    def __post_init__(self):
        check_number("Count", self.limit, like=3)
        if not is_count(self.limit):
            raise ValueError(
                f"Count: got {self.limit!r}, expected a number of sites of at least 1."
            )

    def met(self, steps: Sequence[PlanStep]) -> bool:
        """Returns whether so many sites are collapsed."""
        return len(steps) - 1 >= self.limit

    def most_steps(self, available: int) -> int:
        """Returns the number of sites to collapse, where there are as many."""
        return min(self.limit, available)


def check_budget(budget: Any) -> None:
    """Raises TypeError unless this is a budget."""
    if not isinstance(budget, Budget):
        raise TypeError(
            f"budget is {describe(budget)}; expected one of lcjax.MaxDrop(0.5), lcjax.Params(0.8), "
            "lcjax.Flops(0.8), lcjax.Count(3). Pass one such object, with your limit in it."
        )
