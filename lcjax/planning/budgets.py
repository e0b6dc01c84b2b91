"""What a plan has to keep to: a size, a number of sites, or a drop of the metric."""

from dataclasses import dataclass
from typing import Any, Literal

from lcjax.planning.results import Step
from lcjax.validation.arguments import check_number


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
      kind: what is limited.
      limit: the largest accepted; for "count" the number of sites wanted.
      asked: what the user gave.
    """

    kind: Literal["target_params", "target_flops", "max_drop", "count"]
    limit: float
    asked: float

    def __str__(self) -> str:
        """Returns the budget as it was asked for."""
        return f"{self.kind}={self.asked:g}" if self.asked < 1e6 else f"{self.kind}={self.asked:,}"

    def reached(self, steps: list[Step]) -> bool:
        """Tells whether no further step is needed; never of a drop, which asks for all it can."""
        if self.kind == "count":
            return len(steps) - 1 >= self.limit
        size = {"target_params": steps[-1].parameters, "target_flops": steps[-1].flops}
        return self.kind in size and size[self.kind] <= self.limit

    def broken(self, steps: list[Step]) -> bool:
        """Tells whether the last step is one too far, which only a drop can say."""
        return self.kind == "max_drop" and steps[0].metric - steps[-1].metric > self.limit


def only_budget(
    deep: Step,
    target_params: int | float | None,
    target_flops: int | float | None,
    max_drop: float | None,
    count: int | None,
) -> Budget:
    """Returns the one budget that was given, its limit in absolute numbers.

    Raises:
      ValueError: none or several; one out of range.
    """
    given: dict[Any, Any] = {
        "target_params": target_params,
        "target_flops": target_flops,
        "max_drop": max_drop,
        "count": count,
    }
    given = {kind: asked for kind, asked in given.items() if asked is not None}
    if len(given) != 1:
        raise ValueError(
            "wanted one budget, target_params, target_flops, max_drop or count; got "
            f"{' and '.join(given) or 'none'}."
        )
    ((kind, asked),) = given.items()
    check_number(kind, asked)
    whole = isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1
    if kind == "max_drop" and not asked >= 0:
        raise ValueError(f"max_drop is {asked}, must be at least 0, in the metric's unit.")
    if kind == "count" and not whole:
        raise ValueError(f"count is {asked!r}, must be a number of sites of at least 1.")
    if kind in ("max_drop", "count"):
        return Budget(kind, asked, asked)
    if not whole and not (isinstance(asked, float) and 0 < asked < 1):
        raise ValueError(
            f"{kind} is {asked!r}, must be a whole number of at least 1, or a part of the deep "
            "model's in (0, 1)."
        )
    size = deep.parameters if kind == "target_params" else deep.flops
    return Budget(kind, asked if whole else asked * size, asked)
