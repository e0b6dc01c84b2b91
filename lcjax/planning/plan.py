"""Planning: which sites to collapse within a budget, by their cost on a metric of the user's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.calibration.statistics import with_progress
from lcjax.planning.budgets import Budget, Count, MaxDrop, Usage, check_budget
from lcjax.planning.results import Plan, PlanStep
from lcjax.planning.sensitivity import measure_sites
from lcjax.planning.trials import MetricFn, Trials
from lcjax.structure.choice import SiteSelector, Skip, gap_skip, select_for_fit
from lcjax.structure.front_end import Collapsible, Size
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.sites import Site, require_finite_gap
from lcjax.surgery.collapse import abstract_collapse_model
from lcjax.tree.paths import natural_sort_key
from lcjax.tree.selection import check_forward_order
from lcjax.validation.batches import check_batches

Order = Literal["sensitivity", "last", "gap"]


def plan(
    apply_fn: Callable[..., Any] | None,
    variables: Mapping[str, Any],
    metric: MetricFn,
    data: CalibrationData | Iterable[Any] | None = None,
    *,
    budget: Budget,
    sites: SiteSelector = None,
    order: Order = "sensitivity",
    fit: Fit = LEAST_SQUARES,
) -> Plan:
    """Returns which sites to collapse within a budget, measured step by step; changes nothing.

    Sites are collapsed one after another, by their cost alone, from the last backwards, or by their
    gap; after each the model is collapsed on trial and measured, until the budget is met or, with
    `MaxDrop`, would be exceeded. No choice of sites is measured twice. A site that would leave no
    fewer weights is passed over until it does, as one before a bottleneck may once its neighbour is
    collapsed (with a rank given, none is passed over). The steps are measured in the way that
    carries the plan out:
    `lcjax.collapse_sequential(apply_fn, variables, data, plan)`; with a fit that is not sequential
    `lcjax.collapse(variables, calibration=lcjax.calibrate(apply_fn, variables, data, plan))`; with
    fit=Exact() `lcjax.collapse(variables, plan)`.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; may be None with
        fit=Exact().
      variables: params or variables, as apply_fn takes them; nested dicts.
      metric: `metric(variables)` returns a number, higher is better, such as validation accuracy.
      data: batches, or `CalibrationData`; in memory or re-iterable; None with fit=Exact().
      budget: `MaxDrop(...)`, `Params(...)`, `Flops(...)` or `Count(...)`.
      sites: from which to choose; paths, globs, `re.Pattern`s or Sites; None takes every
        paired site.
      order: "sensitivity", "last" or "gap". "last" counts in forward order, for which apply_fn
        is traced on the first batch where both are given.
      fit: `LeastSquares(...)`, `PerUnit(...)` or `Exact(...)`. A sequential fit takes up to n
        passes for the n-th step but is far better; otherwise one pass serves all.

    Raises:
      TypeError: batches that can be iterated only once, or missing; something other than a budget.
      CollapseError: order="last" where neither apply_fn nor names say the forward order.
      ValueError: an unknown order; a metric that is not finite; as `lcjax.calibrate` and
        `lcjax.collapse`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 16, 3), nn.relu)
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> y = model.apply(variables, x)
      >>> metric = lambda v: -float(jnp.mean((model.apply(v, x) - y) ** 2))
      >>> lcjax.plan(model.apply, variables, metric, [x], budget=lcjax.Count(1)).num_taken
      1
    """
    model = ParamsTree(variables, apply_fn, "plan")
    return plan_model(model, metric, data, budget=budget, sites=sites, order=order, fit=fit)


def plan_model(
    model: Collapsible,
    metric: MetricFn,
    data: CalibrationData | Iterable[Any] | None = None,
    *,
    budget: Budget,
    sites: SiteSelector = None,
    order: Order = "sensitivity",
    fit: Fit = LEAST_SQUARES,
) -> Plan:
    """Returns what `plan` does, for a model of any front end."""
    check_budget(budget)
    trials = Trials(model, metric, data, fit)
    if order not in ("sensitivity", "last", "gap"):
        raise ValueError(f"order is {order!r}; expected 'sensitivity', 'last' or 'gap'.")
    left, skipped = _candidates(model, sites, fit)
    forward = _forward_order(model, data, left) if order == "last" else None
    baseline = trials.evaluate(model.variables)
    deep = PlanStep(site=None, metric=baseline, **model.size._asdict())
    steps = [deep]
    paths = _ordered(trials, baseline, left, order, fit, forward)
    saves = _Savings(model)
    uses = [Usage(0.0, deep.parameters, deep.flops, kept=len(paths))]
    goal = not isinstance(budget, MaxDrop)  # to be reached; else a bound to stay within
    count = min(budget.limit, len(paths)) if isinstance(budget, Count) else len(paths)
    bar = iter(with_progress(range(count), "planning", "site") if trials.progress else range(count))
    while paths and budget.met(uses[-1], uses[0]) != goal:
        next(bar)
        taken = [step.site for step in steps if step.site is not None]
        site = next((p for p in paths if fit.rank is not None or saves(taken, p)), None)
        if site is None:
            break
        paths.remove(site)
        steps.append(_step(trials, deep, [*taken, site]))
        uses.append(_usage(steps[-1], baseline, kept=uses[-1].kept - 1))
    met = budget.met(uses[-1], uses[0])
    if goal != met:
        skipped += [Skip(path, "grows") for path in paths]
    num_taken = len(steps) - 1 - (not goal and not met)
    return Plan(
        steps=tuple(steps),
        num_taken=num_taken,
        budget=str(budget),
        budget_met=met if goal else num_taken > 0,
        fit=fit.name,
        order=order,
        skipped=tuple(sorted(skipped, key=lambda skip: natural_sort_key(skip.site))),
    )


def _candidates(model: Collapsible, sites: SiteSelector, fit: Fit) -> tuple[list[Site], list[Skip]]:
    """Returns the sites that may be tried, and those that may not, each with the reason."""
    selection = select_for_fit(model.sites, sites, model.collapsed)
    skipped = [skip for skip in selection.skipped if skip.reason == "unpaired"]
    left = []
    for site in model.sites:
        if site.path not in selection.chosen:
            continue
        if not fit.needs_data and require_finite_gap(site) > fit.max_gap:
            skipped.append(gap_skip(site, fit.max_gap))
        elif fit.needs_data and site.layers > site.experts:
            skipped.append(Skip(site.path, "stacked"))
        else:
            left.append(site)
    return left, skipped


def _forward_order(
    model: Collapsible, data: CalibrationData | Iterable[Any] | None, left: Sequence[Site]
) -> Sequence[str]:
    """Returns the paths of sites in the order in which the model runs them on the first batch."""
    batch = None
    if data is not None:
        data = as_data(data)
        check_batches(data.batches, more_than_once="finding the forward order")
        batch = data.first_batch()
    order = model.forward_order(batch)
    if order is None:
        check_forward_order('order="last"', [site.path for site in left])
        return model.sites.paths
    return order


def _ordered(
    trials: Trials,
    baseline: float,
    left: Sequence[Site],
    order: Order,
    fit: Fit,
    forward: Sequence[str] | None,
) -> list[str]:
    """Returns the paths of the sites in the order in which they are tried."""
    paths = [site.path for site in left]
    if forward is not None:
        return sorted(paths, key=forward.index, reverse=True)
    if order == "gap":
        return [site.path for site in sorted(reversed(left), key=require_finite_gap)]
    costs = measure_sites(trials, baseline, paths, fit).cheapest_first
    return [cost.site for cost in costs]


def _step(trials: Trials, deep: PlanStep, sites: list[str]) -> PlanStep:
    """Returns the step whose site is the last of these, all of them collapsed."""
    metric, report = trials.measure(sites)
    return PlanStep(
        site=sites[-1],
        metric=metric,
        parameters=report.parameters_after,
        flops=deep.flops - report.flops_before + report.flops_after,
    )


def _usage(step: PlanStep, baseline: float, kept: int) -> Usage:
    return Usage(baseline - step.metric, step.parameters, step.flops, kept)


class _Savings:
    """Says whether one more site leaves less to compute, and no more parameters, than before."""

    def __init__(self, model: Collapsible):
        self._model = model.abstract()
        self._sizes: dict[tuple[str, ...], Size] = {(): model.size}

    def __call__(self, taken: Sequence[str], path: str) -> bool:
        before, after = self._size(tuple(taken)), self._size((*taken, path))
        return after.flops < before.flops and after.parameters <= before.parameters

    def _size(self, sites: tuple[str, ...]) -> Size:
        if sites not in self._sizes:
            report = abstract_collapse_model(self._model, sites)[1]
            flops = self._sizes[()].flops - report.flops_before + report.flops_after
            self._sizes[sites] = Size(report.parameters_after, flops)
        return self._sizes[sites]
