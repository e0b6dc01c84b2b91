"""Options between those that were measured, so that a choice can use its budgets up."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from lcjax.calibration.fits import Fit, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.planning.budgets import Usage
from lcjax.planning.choosing.options import Option, SiteOptions

_STEPS = 4  # of the gap between two measured options, at most


def with_options_between(site: SiteOptions, multiple: int, also: Sequence[Fit] = ()) -> SiteOptions:
    """Returns a site that also has options with counts and ranks between the measured ones.

    Sizes and times of these are interpolated in the number of units or the rank, and of drops the
    square root, which is nearly linear. Units beyond the largest measured number lie between it and
    the site as it is.

    Args:
      site: with measured options.
      multiple: counts and ranks are multiples of it.
      also: fits whose counts or ranks are added whatever the multiple.
    """
    new: list[Option] = []
    for own in _kinds(site.options):
        if isinstance(own[0].fit, Units) and not own[0].fit.linear:
            all_units = Option(Units(site.widths[-2]), site.options[0].change)
            own = [*own, all_units]
        for low, high in pairwise(own):
            new += _between(low, high, multiple, also)
    return replace(site, options=(*site.options, *new))


def _kinds(options: Sequence[Option]) -> list[list[Option]]:
    """Returns the options of each kind that has a number, in its order."""
    groups: dict[tuple[type, bool], list[Option]] = {}
    for option in options:
        if isinstance(option.fit, Units | LowRank):
            groups.setdefault(kind_of(option.fit), []).append(option)
    return [sorted(group, key=lambda option: number_of(option.fit)) for group in groups.values()]


def _between(low: Option, high: Option, multiple: int, also: Sequence[Fit]) -> Iterator[Option]:
    """Yields the options between two of a kind."""
    start, end = number_of(low.fit), number_of(high.fit)
    numbers = {
        round((start + (end - start) * step / _STEPS) / multiple) * multiple
        for step in range(1, _STEPS)
    } | {number_of(fit) for fit in also if kind_of(fit) == kind_of(low.fit)}
    for number in sorted(number for number in numbers if start < number < end):
        part = (number - start) / (end - start)
        changes = zip(Usage._fields, low.change, high.change, strict=True)
        mixed: dict[str, Any] = {name: _mixed(name, a, b, part) for name, a, b in changes}
        yield Option(_with_number(low.fit, number), Usage(**mixed)._replace(kept=low.change.kept))


def _mixed(name: str, a: float | None, b: float | None, part: float) -> float | None:
    if a is None or b is None:
        return None
    if name == "drop" and a >= 0 and b >= 0:
        return ((1 - part) * math.sqrt(a) + part * math.sqrt(b)) ** 2
    mixed = a + part * (b - a)
    return mixed if name in ("drop", "ms") else round(mixed)


def kind_of(fit: Fit | None) -> tuple[type, bool]:
    """Returns what fits that differ in their number alone have in common."""
    return type(fit), getattr(fit, "linear", False)


def number_of(fit: Fit | None) -> int:
    """Returns the number of units of a fit, or its rank."""
    return fit.count if isinstance(fit, Units) else int(fit.rank or 0) if fit else 0


def _with_number(fit: Fit | None, number: int) -> Fit:
    """Returns a fit with another number of units, or another rank."""
    if isinstance(fit, Units):
        return replace(fit, count=number)
    assert isinstance(fit, LowRank)
    return replace(fit, rank=number)
