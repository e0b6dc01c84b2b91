"""The options of each site: its candidates solved from one calibration, and measured alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from lcjax.algebra.unit_selection import NestedOrder
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Fit, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.calibration.of_segments import without_units
from lcjax.calibration.statistics import SplitMoments
from lcjax.errors import CollapseError
from lcjax.planning.budgets import Usage
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.measuring.measure import Measure
from lcjax.planning.measuring.padded import padded
from lcjax.structure.front_end import Collapsible, Observed, Size
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.low_rank_solver import Known

# Statistics of one segment by the values that they are of.
Found = Mapping[Observed, SplitMoments]


class Solved(NamedTuple):
    """One fit of one site.

    Attributes:
      fit: how it was found; None keeps the site.
      segment: which it takes the place of.
      replacement: what takes its place; None keeps the site.
      size: of the model with it alone, and with no other change.
      bytes: of that model's tree.
    """

    fit: Fit | None
    segment: Segment
    replacement: Replacement | None
    size: Size
    bytes: int


def collect_for_fits(
    model: Collapsible,
    data: CalibrationData,
    fits: Mapping[str, Sequence[Fit]],
    now: Collapsible | None = None,
) -> dict[str, Found]:
    """Returns the statistics from which the fits of each site are solved.

    One pass over the batches for all sites where no fit but `PerUnit` is left out: the moments of
    inputs, hidden units and outputs have those of inputs and outputs in them.

    Args:
      model: the deep model.
      data: the batches.
      fits: to try, by site.
      now: the model from which inputs are taken, and in which the sites are; None for the deep one.
    """
    segments = {path: (now or model).segments([path])[0] for path in fits}
    needed: dict[Observed, list[Segment]] = {}
    for path, tried in fits.items():
        for observed in _needed(segments[path], tried):
            each = segments[path].pair if observed == "hidden" else segments[path]
            needed.setdefault(observed, []).append(each)
    compact = None if now is None or now is model else now.variables
    every = [fit for tried in fits.values() for fit in tried]
    found = {
        observed: collect_for_fit(model, some, data, _widest(every, observed), compact)
        for observed, some in needed.items()
    }
    return {
        path: {observed: found[observed] for observed in _needed(segments[path], tried)}
        for path, tried in fits.items()
    }


def solve_fits(
    model: Collapsible, path: str, fits: Sequence[Fit], found: Found
) -> tuple[list[Solved], list[str]]:
    """Returns the fits of one site that save something, and remarks about the others.

    Args:
      model: with the site.
      path: of the site.
      fits: to try.
      found: the statistics of the site.
    """
    (segment,), deep = model.segments([path]), model.size
    solved, notes = [], []
    orders = {linear: NestedOrder(_most_units(fits, linear)) for linear in (False, True)}
    known: Known = {}  # layers that are decomposed for all ranks
    for fit in fits:
        place = segment.pair if fit.observed == "hidden" else segment
        try:
            shared: dict[str, Any] = {"known": known} if isinstance(fit, LowRank) else {}
            if isinstance(fit, Units):
                shared = {"order": orders[fit.linear]}
            replacement = solve_checked(fit, place, statistics_of(fit, place, found), **shared)
            rebuilt = model.rebuild({place: replacement})
        except CollapseError as error:
            notes.append(f"{path}: {fit} left out: {error}")
            continue
        size = Size(
            rebuilt.after.parameters, deep.flops - rebuilt.before.flops + rebuilt.after.flops
        )
        if size.parameters >= deep.parameters and size.flops >= deep.flops:
            notes.append(f"{path}: {fit} left out: saves nothing")
            continue
        solved.append(Solved(fit, place, replacement, size, bytes_of(rebuilt.tree)))
    return solved, notes


def _most_units(fits: Sequence[Fit], linear: bool) -> int:
    """Returns the largest count of the fits that keep units, with a linear map or without."""
    counts = (fit.count for fit in fits if isinstance(fit, Units) and fit.linear == linear)
    return max(counts, default=0)


def measure_alone(
    model: Collapsible, measure: Measure, baseline: float, path: str, solved: Sequence[Solved]
) -> SiteOptions:
    """Returns the options of one site, each measured with all other sites unchanged."""
    (segment,) = model.segments([path])
    drops = drops_of(model, measure, baseline, solved)
    size, whole, options = model.size, bytes_of(model.variables), [KEEP]
    for each, drop in zip(solved, drops, strict=True):
        parameters = each.size.parameters - size.parameters
        flops = each.size.flops - size.flops
        change = Usage(drop, parameters, flops, -1, each.bytes - whole, 0.0)
        found = each.replacement.fits if each.replacement else ()
        r2 = next((fit.held_out_r2 for fit in found if fit.tokens), None)
        options.append(Option(each.fit, change, r2))
    return SiteOptions(path, segment.widths, tuple(options), segment.weights)


def drops_of(
    model: Collapsible,
    measure: Measure,
    baseline: float,
    solved: Sequence[Solved],
    others: Mapping[Segment, Replacement] | None = None,
) -> list[float]:
    """Returns the drop of the metric with each fit of one site.

    All that leave the first layer are measured together, in one form, and so are those of low rank;
    but not those of experts, and of sites with factors or a
    bypass of earlier collapses before them.

    Args:
      model: with the site.
      measure: of trees.
      baseline: metric of the deep model.
      solved: fits of the site.
      others: replacements of other sites that are in place.
    """
    others = dict(others or {})
    if not solved:
        return []
    metrics: dict[int, float] = {}
    for group in _alike(solved):
        one_form = all(_has_one_form(solved[i].segment) for i in group)
        forms = [_form(solved[i], one_form) for i in group]
        trees = [model.rebuild({**form, **others}).tree for form in forms]
        found = measure(trees) if one_form else [measure([tree])[0] for tree in trees]
        metrics |= zip(group, found, strict=True)
    return [baseline - metrics[i] for i in range(len(solved))]


def _alike(solved: Sequence[Solved]) -> list[list[int]]:
    """Returns the fits of a site, as indices, in groups that leave the same layers unchanged."""
    groups: dict[bool, list[int]] = {}
    for i, each in enumerate(solved):
        groups.setdefault(isinstance(each.fit, LowRank), []).append(i)
    return list(groups.values())


def _form(each: Solved, one_form: bool) -> dict[Segment, Replacement]:
    """Returns what a fit replaces, padded to the form of all."""
    if one_form:
        return {each.segment: padded(each.segment, each.replacement)}
    return {each.segment: each.replacement} if each.replacement else {}


def _has_one_form(segment: Segment) -> bool:
    """Returns whether `padded` writes every replacement of a segment in the same form."""
    return len(segment.layers) == 2 and not segment.entry and not segment.experts


def statistics_of(fit: Fit, segment: Segment, found: Found) -> SplitMoments:
    """Returns the statistics that a fit of a segment needs, from those that were collected."""
    if fit.observed in found:
        return found[fit.observed]
    key, hidden = segment.key, found["hidden"]
    return SplitMoments(
        {key: without_units(hidden.train[key], segment.d_in)},
        {key: without_units(hidden.held_out[key], segment.d_in)},
    )


def bytes_of(tree: Any) -> int:
    """Returns the bytes of a tree's arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _widest(fits: Sequence[Fit], observed: Observed) -> Fit:
    """Returns the fit that needs most of the statistics of some values."""
    some = [fit for fit in fits if fit.observed == observed]
    return max(some, key=lambda fit: fit.count if isinstance(fit, Units) else math.inf)


def _needed(segment: Segment, fits: Sequence[Fit]) -> set[Observed]:
    """Returns which values the fits of a segment are solved from."""
    needed: set[Observed] = {fit.observed for fit in fits}
    if "hidden" in needed and len(segment.layers) == 2:
        needed.discard("segment")
    return needed
