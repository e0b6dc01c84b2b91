"""Collapse segment by segment in forward order, so that later fits correct earlier errors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lcjax.calibration.calibrate import segments_to_fit
from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import LEAST_SQUARES, Fit, check_fit
from lcjax.calibration.statistics import collect_statistics
from lcjax.structure.choice import SiteSelector, select_for_fit
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment, SegmentId
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.report import CollapseReport, make_report
from lcjax.validation.batches import check_batches
from lcjax.validation.functions import check_function

# Replacements by the segments up to and with theirs, in forward order.
Solved = dict[tuple[SegmentId, ...], Replacement]


def collapse_sequential(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> tuple[Any, CollapseReport]:
    """Returns the tree with these sites collapsed one segment after another, and the report.

    In forward order each segment is fitted to map its input in the already compact model to its
    output in the deep model; so a later segment corrects the errors of earlier ones, which
    `lcjax.calibrate`, one pass for all, cannot. Where something is added to the segment's output,
    as in a residual block, least squares fits the sum: `t + r − r'`, with r added in the deep model
    and r' in the compact one. It takes one pass over the batches for every segment.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; jitted or not.
      variables: params or variables, as apply_fn takes them; nested dicts.
      data: batches, or `CalibrationData`; in memory or re-iterable.
      sites: paths, globs, Sites or a Plan; None takes every paired site.
      fit: `LeastSquares(...)` or `PerUnit(...)`.

    Returns:
      `(compact, report)`, as `lcjax.collapse`; the report's errors are of each segment alone, with
      its inputs from the compact model.

    Raises:
      TypeError: batches that can be iterated only once.
      ValueError: as `lcjax.calibrate` and `lcjax.collapse`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 16, 3), nn.relu)
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> compact, report = lcjax.collapse_sequential(model.apply, variables, [x])
      >>> report.collapsed
      ('act_0', 'act_1')
    """
    check_function(apply_fn)
    model = ParamsTree(variables, apply_fn, "collapse_sequential")
    return collapse_model_sequential(model, data, sites, fit)


def collapse_model_sequential(
    model: Collapsible,
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> tuple[Any, CollapseReport]:
    """Returns what `collapse_sequential` does, for a model of any front end."""
    data = as_data(data)
    check_batches(data.batches, more_than_once="each segment of sites")
    check_fit(fit, needs_data=True)
    selection = select_for_fit(model.sites, sites, model.collapsed)
    segments, order = segments_to_fit(model, selection.chosen), forward_paths(model, data)
    segments.sort(key=lambda segment: order.index(segment.sites[0]))
    replacements = solve_in_order(model, segments, data, fit, {})
    rebuilt = model.rebuild(replacements)
    return rebuilt.tree, make_report(model.sites, replacements, rebuilt, selection.skipped)


def forward_paths(model: Collapsible, data: CalibrationData) -> Sequence[str]:
    """Returns the paths of the sites in the order in which the model runs them on a batch."""
    return model.forward_order(data.first_batch()) or model.sites.paths


def solve_in_order(
    model: Collapsible,
    segments: Sequence[Segment],
    data: CalibrationData,
    fit: Fit,
    solved: Solved,
) -> dict[Segment, Replacement]:
    """Returns the replacements of segments, each fitted behind the replacements before it.

    Args:
      model: that the segments are of.
      segments: in forward order.
      data: re-iterable.
      fit: with data.
      solved: replacements that are known already; the new ones are added.
    """
    replacements: dict[Segment, Replacement] = {}
    for end, segment in enumerate(segments, 1):
        so_far = tuple(each.id for each in segments[:end])
        if so_far not in solved:
            compact = model.rebuild(replacements).tree if replacements else None
            observe = model.observe([segment], fit.observed)
            statistics = collect_statistics(observe, model.variables, data, fit.observed, compact)
            solved[so_far] = solve_checked(fit, segment, statistics)
        replacements[segment] = solved[so_far]
    return replacements
