"""The table of fits: what each fit of each site costs, and the best choice within budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from lcjax.calibration.fits import Fit, LeastSquares, Remove, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.planning.budgets import Budget, Quantity, Usage
from lcjax.planning.choosing.items import ChainItems
from lcjax.planning.choosing.knapsack import cheapest, pareto_front
from lcjax.planning.choosing.options import SiteOptions


@dataclass(frozen=True)
class FitTable:
    """What each fit of each site costs.

    Drops of sites are taken to add up, and so are sizes but for those of one chain, of which the
    sizes are computed together.

    Attributes:
      deep: usage of the deep model.
      sites: in forward order.
      offset: the drop of a choice beyond the sum of its options' drops.
    """

    deep: Usage
    sites: tuple[SiteOptions, ...]
    offset: float = 0.0

    def usage(self, choice: Sequence[int]) -> Usage:
        """Returns what a model is predicted to cost: the deep model's and the changes.

        Args:
          choice: index of an option, a site each.
        """
        parts = self._items.of(choice)
        deep = self.deep
        total = {
            name: sum(getattr(part, name) or 0 for part in parts) + (getattr(deep, name) or 0)
            for name in Usage._fields
            if getattr(deep, name) is not None
        }
        usage = Usage(**total)
        return usage._replace(drop=usage.drop + self.offset)

    def fits(self, choice: Sequence[int]) -> dict[str, Fit]:
        """Returns the fits of a choice by site, without the sites that stay."""
        chosen = {s.site: s.options[i].fit for s, i in zip(self.sites, choice, strict=True)}
        return {path: fit for path, fit in chosen.items() if fit is not None}

    def choice_of(self, fits: Mapping[str, Fit]) -> tuple[int, ...] | None:
        """Returns the choice of these fits, one for every site; None where a site lacks its own."""
        places = [[option.fit for option in site.options] for site in self.sites]
        chosen = [fits.get(site.site) for site in self.sites]
        if any(fit is None or fit not in own for fit, own in zip(chosen, places, strict=True)):
            return None
        return tuple(own.index(fit) for fit, own in zip(chosen, places, strict=True))

    def front(self, quantity: Quantity = "parameters") -> list[tuple[int, ...]]:
        """Returns the choices on the Pareto front of a quantity and drop, the smallest first."""
        found = pareto_front(self._changes("drop"), self._changes(quantity))
        return [self._items.choice(choice.options) for choice in found]

    def choose(
        self, budgets: Sequence[Budget], excess: Mapping[Quantity, float] | None = None
    ) -> tuple[int, ...]:
        """Returns the option of each site that together meet the budgets and cost least.

        Minimizes the drop of the metric, or, where `MaxDrop` is the only limit besides `Count`, the
        parameters.

        Args:
          budgets: at least one.
          excess: by how much more of a quantity was measured than predicted: limits are lowered by
            it, or raised where it is negative.

        Raises:
          ValueError: no choice meets them; says the nearest that is possible.
        """
        limits = self._limits(budgets, excess or {})
        only_drop = "drop" in limits and limits.keys() <= {"drop", "kept"}
        goal: Quantity = "parameters" if only_drop else "drop"
        if len(limits) == 1:
            choice = self._best_within_one(goal, *limits.items())
        else:
            choice = self._best_within(goal, limits)
        if choice is None:
            raise ValueError(self._contradiction(budgets, limits))
        return choice

    def smallest(self, quantity: Quantity) -> tuple[int, ...]:
        """Returns the option of each site that alone leaves least of a quantity."""
        changes = self._changes(quantity)
        return self._items.choice([min(range(len(each)), key=each.__getitem__) for each in changes])

    def cannot_meet(self, budgets: Sequence[Budget], measured: Sequence[Usage]) -> str:
        """Returns the message for sizes that none of the measured models has.

        Args:
          budgets: of sizes.
          measured: the models, among them the smallest.
        """
        names = dict.fromkeys(budget.quantity for budget in budgets)
        least = (_shown(name, min(getattr(each, name) for each in measured)) for name in names)
        return _impossible(budgets, "cannot be met", list(least))

    def _best_within_one(
        self, goal: Quantity, limit: tuple[Quantity, float]
    ) -> tuple[int, ...] | None:
        quantity, most = limit
        front = pareto_front(self._changes(goal), self._changes(quantity))
        within = [choice for choice in front if choice.size <= most]
        return self._items.choice(within[-1].options) if within else None

    def _best_within(
        self, goal: Quantity, limits: Mapping[Quantity, float]
    ) -> tuple[int, ...] | None:
        sizes: dict[str, list[list[float]]] = {name: self._changes(name) for name in limits}
        most: dict[str, float] = {name: limit for name, limit in limits.items()}
        found = cheapest(self._changes(goal), sizes, most)
        return None if found is None else self._items.choice(found)

    @cached_property
    def _items(self) -> ChainItems:
        return ChainItems(self.deep, self.sites)

    def _changes(self, quantity: Quantity) -> list[list[float]]:
        return self._items.changes(quantity)

    def _limits(
        self, budgets: Sequence[Budget], excess: Mapping[Quantity, float]
    ) -> dict[Quantity, float]:
        """Returns the largest sum of changes of each limited quantity."""
        limits: dict[Quantity, float] = {}
        for budget in budgets:
            name = budget.quantity
            start = self.offset if name == "drop" else getattr(self.deep, name)
            if start is None:
                raise ValueError(
                    f"budget: got {budget}, but {name} was not measured. Plan again with this "
                    "budget."
                )
            most = budget.most(self.deep) - start - excess.get(name, 0)
            limits[name] = min(most, limits.get(name, most))
        return limits

    def _contradiction(self, budgets: Sequence[Budget], limits: Mapping[Quantity, float]) -> str:
        """Returns the message for budgets that no choice meets."""
        alone, together = [], []
        for name in limits:
            others: dict[Quantity, float] = {q: most for q, most in limits.items() if q != name}
            least = sum(min(changes) for changes in self._changes(name))
            start = self.offset if name == "drop" else getattr(self.deep, name)
            if least > limits[name]:
                alone.append(_shown(name, start + least))
            choice = self._best_within(name, others)
            if choice is not None and not alone:
                nearest = _shown(name, getattr(self.usage(choice), name))
                together.append(f"{nearest} within the others")
        how = "cannot be met together" if len(budgets) > 1 and not alone else "cannot be met"
        return _impossible(budgets, how, alone or together)


def agrees(predicted: float, measured: float, tolerance: float) -> bool:
    """Returns whether a measured drop is as predicted, relative to the larger of the two."""
    return abs(measured - predicted) <= tolerance * max(abs(predicted), abs(measured))


def became(fit: Fit | None, widths: Sequence[int]) -> str:
    """Returns what takes a site's place in a few words.

    Example:
      >>> became(Units(192, linear=True), (384, 1536, 384))
      'linear map + 192 of 1,536 units'
    """
    match fit:
        case None:
            return "kept"
        case Units():
            units = f"{fit.count:,} of {widths[-2]:,} units"
            return f"linear map + {units}" if fit.linear else units
        case LowRank():
            return f"kernels of rank {fit.rank:,}"
        case Remove():
            return "removed"
        case LeastSquares():
            return "linear map" if fit.rank is None else f"linear map, rank {fit.rank}"
        case _:
            return fit.name.replace("_", " ")


def _impossible(budgets: Sequence[Budget], how: str, least: Sequence[str]) -> str:
    asked = ", ".join(map(str, budgets))
    return (
        f"budget: {asked} {how} by these candidates; the least possible: {', '.join(least)}. "
        "Raise a limit, or give more candidates."
    )


def _shown(quantity: str, value: Any) -> str:
    name = "sites that stay" if quantity == "kept" else quantity
    return f"{name} {value:.4g}" if quantity in ("drop", "ms") else f"{name} {value:,.0f}"


class Round(NamedTuple):
    """One choice that was carried out and measured.

    Attributes:
      choice: index of an option, a site each.
      predicted: from the table.
      measured: of the model with these fits, found one after another.
    """

    choice: tuple[int, ...]
    predicted: Usage
    measured: Usage
