"""Collapse segment by segment in forward order, so that later fits correct earlier errors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from flax.core import meta

from lcjax.calibration.calibrate import segments_to_fit
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import LEAST_SQUARES, Fit, check_fit
from lcjax.errors import CollapseError
from lcjax.structure.choice import SiteSelector, Skip, assign, select_for_fit, select_linear
from lcjax.structure.front_end import Collapsible, Rebuilt, Size
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.structure.sites import params_of
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.refit import refitted
from lcjax.surgery.report import CollapseReport, make_report
from lcjax.tree.paths import in_params, leaf_path, tree_order
from lcjax.validation.batches import check_batches
from lcjax.validation.functions import check_function


class Step(NamedTuple):
    """One segment of a sequential collapse.

    Attributes:
      sites: its sites, neighbours in one chain.
      fit: how its replacement is found.
    """

    sites: tuple[str, ...]
    fit: Fit


class SolvedStep(NamedTuple):
    """A step carried out.

    Attributes:
      segment: as it is in the tree that the steps before leave.
      replacement: of the segment.
      rebuilt: that tree, with the segment replaced.
    """

    segment: Segment
    replacement: Replacement
    rebuilt: Rebuilt


# Steps carried out, by all steps up to and with them.
SolvedSteps = dict[tuple[Step, ...], SolvedStep]


def collapse_sequential(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit | Mapping[Any, Fit] = LEAST_SQUARES,
) -> tuple[Any, CollapseReport]:
    """Returns the tree with these sites collapsed one segment after another, and the report.

    In forward order each segment is fitted to map its input in the already compact model to its
    output in the deep model; so a later segment corrects the errors of earlier ones, which
    `lcjax.calibrate`, one pass for all, cannot. Where something is added to the segment's output,
    as in a residual block, least squares fits the sum: `t + r − r'`, with r added in the deep model
    and r' in the compact one. It takes one pass over the batches for every segment.

    With a mapping each site gets a fit of its own; neighbouring sites of a chain with the same
    one make a segment together, but for `Units`, which fits each site alone.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; jitted or not.
      variables: params or variables, as apply_fn takes them; nested dicts.
      data: batches, or `CalibrationData`; in memory or re-iterable.
      sites: paths, globs, `re.Pattern`s, Sites or a Plan; None takes every paired site.
      fit: `LeastSquares(...)`, `PerUnit(...)`, `Units(...)`, `LowRank(...)`, which takes a pass
        more for each site, or `Remove()`; or a fit for each site, `Exact(...)` too, by path, glob
        or `re.Pattern`, in the place of sites: the first that matches a site gives its fit, and
        sites that none matches stay.

    Returns:
      `(compact, report)`, as `lcjax.collapse`; the report's errors are of each segment alone, with
      its inputs from the compact model.

    Raises:
      TypeError: batches that can be iterated only once.
      ValueError: as `lcjax.calibrate` and `lcjax.collapse`; sites with a fit for each.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 16, 3), nn.relu)
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> compact, report = lcjax.collapse_sequential(model.apply, variables, [x])
      >>> report.collapsed
      ('act_0', 'act_1')
      >>> fits = {"act_0": lcjax.Units(8), "act_1": lcjax.LeastSquares()}
      >>> compact, report = lcjax.collapse_sequential(model.apply, variables, [x], fit=fits)
      >>> sorted(compact["params"])
      ['act_0', 'bypass_0', 'dense_0', 'dense_2']
    """
    check_function(apply_fn)
    model = ParamsTree(variables, apply_fn, "collapse_sequential")
    return collapse_model_sequential(model, data, sites, fit)


def collapse_model_sequential(
    model: Collapsible,
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit | Mapping[Any, Fit] = LEAST_SQUARES,
) -> tuple[Any, CollapseReport]:
    """Returns what `collapse_sequential` does, for a model of any front end."""
    data = as_data(data)
    check_batches(data.batches, more_than_once="each segment of sites")
    fits, skipped = _fits_by_site(model, sites, fit)
    steps = steps_in_order(model, fits, forward_paths(model, data))
    if not steps:
        raise CollapseError("fit: got no site; expected a fit for one site at least.")
    tree, report = run_steps(model, steps, data, {})
    return tree, replace(report, skipped=tuple(skipped))


def forward_paths(model: Collapsible, data: CalibrationData) -> Sequence[str]:
    """Returns the paths of the sites in the order in which the model runs them on a batch."""
    return model.forward_order(data.first_batch()) or model.sites.paths


def steps_in_order(model: Collapsible, fits: Mapping[str, Fit], order: Sequence[str]) -> list[Step]:
    """Returns the steps that replace sites by fits, in forward order.

    Args:
      model: deep.
      fits: by site; sites that are not in it stay.
      order: all sites in forward order.
    """
    chosen = [path for path in order if path in fits]
    steps = []
    for fit in dict.fromkeys(fits[path].reduced() for path in chosen):
        sites = [path for path in chosen if fits[path].reduced() == fit]
        segments = segments_to_fit(model, sites, fit)
        steps += [Step(segment.sites, fit) for segment in segments]
    return sorted(steps, key=lambda step: order.index(step.sites[0]))


def run_steps(
    model: Collapsible, steps: Sequence[Step], data: CalibrationData, solved: SolvedSteps
) -> tuple[Any, CollapseReport]:
    """Returns the tree with segments replaced one after another, and the report.

    Each segment is found in the tree that the steps before it left, takes its inputs from there,
    and its outputs from the deep model.

    Args:
      model: deep.
      steps: in forward order; at least one.
      data: re-iterable.
      solved: steps that were carried out already, in this order; new ones are added.
    """
    done: list[SolvedStep] = []
    for end, step in enumerate(steps, 1):
        so_far = tuple(steps[:end])
        if so_far not in solved:
            compact = done[-1].rebuilt.tree if done else None
            solved[so_far] = _run_step(model, step, data, compact)
        done.append(solved[so_far])
    replacements = {each.segment: each.replacement for each in done}
    rebuilt = _merged(model, [each.rebuilt for each in done])
    return rebuilt.tree, make_report(model.sites, replacements, rebuilt, ())


def _run_step(model: Collapsible, step: Step, data: CalibrationData, compact: Any) -> SolvedStep:
    """Carries out a step in the tree `compact`, or in the model's own where it is None."""
    now = model if compact is None else model.with_variables(compact)
    (segment,) = segments_to_fit(now, step.sites, step.fit)
    statistics = None
    if step.fit.needs_data:
        statistics = collect_for_fit(model, [segment], data, step.fit, compact)
    replacement = solve_checked(step.fit, segment, statistics)
    replacement = refitted(model, now, segment, replacement, step.fit, data)
    return SolvedStep(segment, replacement, now.rebuild({segment: replacement}))


def _merged(model: Collapsible, parts: Sequence[Rebuilt]) -> Rebuilt:
    """Returns what several rebuilds of a model, each of the tree of the one before, make."""
    flat = jax.tree_util.tree_leaves_with_path(meta.unbox(params_of(model.variables)))
    own = {in_params(leaf_path(keys)) for keys, _ in flat}
    written: set[str] = set()
    removed: set[str] = set()
    seen: set[str] = set()
    before = change = 0
    for part in parts:
        written = (written | set(part.written)) - set(part.removed)
        removed |= own & set(part.removed)
        if not part.touched or seen.isdisjoint(part.touched):
            before += part.before.flops
        change += part.after.flops - part.before.flops
        seen |= set(part.touched)
    size = model.size.parameters
    return Rebuilt(
        tree=parts[-1].tree,
        written=tuple(sorted(written, key=tree_order)),
        removed=tuple(sorted(removed - written, key=tree_order)),
        before=Size(size, before),
        after=Size(parts[-1].after.parameters, before + change),
    )


def _fits_by_site(
    model: Collapsible, sites: SiteSelector, fit: Fit | Mapping[Any, Fit]
) -> tuple[dict[str, Fit], Sequence[Skip]]:
    """Returns a fit for each chosen site, and the sites that stay.

    Raises:
      TypeError: something other than fits.
      ValueError: sites and a fit for each.
      CollapseError: as `select_for_fit`; a site over the gap of an exact fit.
    """
    if not isinstance(fit, Mapping):
        check_fit(fit, needs_data=True)
        selection = select_for_fit(model.sites, sites, model.collapsed)
        return dict.fromkeys(selection.chosen, fit), selection.skipped
    if sites is not None:
        raise ValueError("sites: got sites, and a fit for each in `fit`; expected one of the two.")
    for each in fit.values():
        check_fit(each)
    fits = assign(model.sites, fit, model.collapsed)
    gaps = {path: each.max_gap for path, each in fits.items() if not each.needs_data}
    for gap in set(gaps.values()):
        exact = [path for path in gaps if gaps[path] == gap]
        select_linear(model.sites, exact, gap, model.collapsed)
    stay = [path for path in model.sites.paths if path not in fits]
    return fits, [Skip(path, "not_chosen") for path in stay]
