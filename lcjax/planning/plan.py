"""Planning: which sites to collapse, by what it costs on a metric of the user's."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from lcjax.calibration.masks import Mask
from lcjax.calibration.statistics import watched
from lcjax.planning.budgets import only_budget
from lcjax.planning.results import Plan, Sensitivity, SiteCost, Step
from lcjax.planning.trials import AnyFit, Metric, Trials
from lcjax.structure.chains import find_chains
from lcjax.structure.choice import Choice, to_fit
from lcjax.structure.sites import Site, Sites, find_sites, finite_gap, params_of
from lcjax.surgery.collapse import abstract_collapse
from lcjax.surgery.replacement import Rank, Truncation, exactly
from lcjax.surgery.rewrite import chain_flops, rewrite
from lcjax.tree.paths import natural_sort_key
from lcjax.tree.selection import check_forward_order, check_sites
from lcjax.validation.batches import as_batch, check_batches

Order = Literal["sensitivity", "last", "gap"]


def sensitivity(
    apply_fn: Callable[..., Any] | None,
    variables: Mapping[str, Any],
    sites: Choice,
    metric: Metric,
    batches: Iterable[Any] | None = None,
    *,
    fit: AnyFit = "least_squares",
    ridge: float = 1e-3,
    rank: Rank = None,
    tolerance: float = 0.05,
    mask: Mask | None = None,
    holdout: float = 0.1,
    progress: bool = True,
) -> Sensitivity:
    """Returns the metric with each site alone collapsed, whatever its slope.

    One pass over the batches for all sites, then one call of the metric for each.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; may be None with
        fit="exact".
      variables: params or variables, as apply_fn takes them; nested dicts.
      sites: paths, globs or Sites; None takes every paired site.
      metric: `metric(variables)` returns a number, higher is better, such as validation accuracy;
        it is called with the deep tree and with compact ones.
      batches: as for `lcjax.calibrate`, but held in memory or re-iterable; None with fit="exact".
      fit: "least_squares", "moments" or "exact".
      ridge: as for `lcjax.collapse`.
      rank: as for `lcjax.collapse`.
      tolerance: as for `lcjax.collapse`.
      mask: as for `lcjax.calibrate`.
      holdout: as for `lcjax.calibrate`.
      progress: whether passes that take long show a bar (where tqdm is installed).

    Raises:
      TypeError: batches that can be gone through only once, or missing.
      ValueError: a metric that is not finite; as `lcjax.calibrate` and `lcjax.collapse`.
    """
    check_sites(sites)
    trials = Trials(
        apply_fn,
        variables,
        metric,
        batches,
        fit,
        sequential=False,
        fitting=dict(ridge=ridge, rank=rank, tolerance=tolerance),
        gathering=dict(mask=mask, holdout=holdout, progress=progress),
    )
    found = find_sites(variables)
    chosen, _ = to_fit(found, sites)
    paths = [path for path in found.paths if path in chosen]
    return _sensitivity(trials, trials.score(variables), paths, fit)


def plan(
    apply_fn: Callable[..., Any] | None,
    variables: Mapping[str, Any],
    metric: Metric,
    batches: Iterable[Any] | None = None,
    *,
    target_params: int | float | None = None,
    target_flops: int | float | None = None,
    max_drop: float | None = None,
    count: int | None = None,
    sites: Choice = None,
    order: Order = "sensitivity",
    fit: AnyFit = "least_squares",
    sequential: bool = True,
    threshold: float = 0.05,
    ridge: float = 1e-3,
    rank: Rank = None,
    tolerance: float = 0.05,
    mask: Mask | None = None,
    holdout: float = 0.1,
    progress: bool = True,
) -> Plan:
    """Returns which sites to collapse within one budget, measured step by step; changes nothing.

    Sites go one after another, in the order of what each alone costs, from the last backwards, or
    by their gap; after each the model is collapsed on trial and measured, until the budget is met
    or, with `max_drop`, would be broken. A site that would leave no fewer weights is passed over
    until it does, as one before a bottleneck may once its neighbour is gone (with a rank given,
    none is passed over). What is measured is what carries the plan out:
    `lcjax.collapse_sequential(apply_fn, variables, batches, plan)`; without `sequential`
    `lcjax.collapse(variables, plan, fit=lcjax.calibrate(apply_fn, variables, batches, plan))`; with
    fit="exact" `lcjax.collapse(variables, plan)`.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; may be None with
        fit="exact".
      variables: params or variables, as apply_fn takes them; nested dicts.
      metric: `metric(variables)` returns a number, higher is better, such as validation accuracy.
      batches: as for `lcjax.calibrate`, but held in memory or re-iterable; None with fit="exact".
      target_params: parameters to get down to: a number (int), or a part of the deep model's
        (float in (0, 1)); slopes are not counted.
      target_flops: the same of multiply-adds times two for one token through the model's chains.
      max_drop: largest drop of the metric, in its own unit; at least 0.
      count: how many sites.
      sites: from which to choose; paths, globs or Sites; None takes every paired site.
      order: "sensitivity", "last" or "gap". "last" counts in forward order, for which apply_fn
        is traced on the first batch where both are given.
      fit: "least_squares", "moments" or "exact".
      sequential: whether runs are fitted one after another, which takes up to n passes for the
        n-th step but is far better; with False one pass serves all.
      threshold: largest gap that fit="exact" may take for 0.
      ridge: as for `lcjax.collapse`.
      rank: as for `lcjax.collapse`.
      tolerance: as for `lcjax.collapse`.
      mask: as for `lcjax.calibrate`.
      holdout: as for `lcjax.calibrate`.
      progress: whether passes that take long show a bar (where tqdm is installed).

    Raises:
      TypeError: batches that can be gone through only once, or missing.
      CollapseError: order="last" where neither apply_fn nor names tell the forward order.
      ValueError: not exactly one budget, or one out of range; an unknown order or fit; a metric
        that is not finite; as `lcjax.calibrate` and `lcjax.collapse`.
    """
    trials = Trials(
        apply_fn,
        variables,
        metric,
        batches,
        fit,
        sequential=sequential,
        fitting=dict(ridge=ridge, rank=rank, tolerance=tolerance),
        gathering=dict(mask=mask, holdout=holdout, progress=progress),
    )
    if order not in ("sensitivity", "last", "gap"):
        raise ValueError(f"order is {order!r}, must be 'sensitivity', 'last' or 'gap'.")
    found = _as_run(apply_fn, variables, batches) if order == "last" else None
    left, refused = _candidates(found or find_sites(variables), sites, fit, threshold)
    if order == "last" and found is None:
        check_forward_order('order="last"', [site.path for site in left])
    deep = _deep(trials, variables)
    budget = only_budget(deep, target_params, target_flops, max_drop, count)
    steps = [deep]
    left = _ordered(trials, deep, left, order, fit)
    most = min(int(budget.limit), len(left)) if budget.kind == "count" else len(left)
    bar = iter(watched(range(most), "planning", "site") if trials.progress else range(most))
    while left and not budget.reached(steps) and not budget.broken(steps):
        next(bar)
        taken = [step.site for step in steps if step.site is not None]
        saving = (path for path in left if rank is not None or _saves(variables, taken, path))
        site = next(saving, None)
        if site is None:
            break
        left.remove(site)
        steps.append(_step(trials, deep, [*taken, site]))
    too_far = budget.broken(steps)
    if not too_far and not budget.reached(steps):
        refused += [
            (path, "would not pay: one matrix with its bias is no smaller than two")
            for path in left
        ]
    kept = len(steps) - 1 - too_far
    return Plan(
        steps=tuple(steps),
        chosen=kept,
        budget=str(budget),
        met=kept > 0 if budget.kind == "max_drop" else budget.reached(steps),
        fit=fit,
        order=order,
        refused=tuple(sorted(refused, key=lambda pair: natural_sort_key(pair[0]))),
    )


def _as_run(
    apply_fn: Callable[..., Any] | None, variables: Any, batches: Iterable[Any] | None
) -> Sites | None:
    """Returns the sites as the model runs them on the first batch; None where it cannot run."""
    if apply_fn is None or batches is None:
        return None
    check_batches(batches, more_than_once="finding the forward order")
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches: got none, expected at least one. Give a list of batches.")
    return find_sites(variables, apply_fn=apply_fn, inputs=as_batch(first))


def _sensitivity(trials: Trials, baseline: float, paths: list[str], fit: AnyFit) -> Sensitivity:
    trials.learn([[path] for path in paths])
    costs = []
    for path in watched(paths, "measuring sites", "site") if trials.progress else paths:
        compact, report = trials.collapse([path])
        metric = trials.score(compact)
        r2 = next((run.held_r2 for run in report.fits if run.tokens), None)
        cost = SiteCost(path, metric, baseline - metric, report.parameters_after, r2)
        costs.append(cost)
    return Sensitivity(baseline=baseline, costs=tuple(costs), fit=fit)


def _candidates(
    found: Sites, sites: Choice, fit: AnyFit, threshold: float
) -> tuple[list[Site], list[tuple[str, str]]]:
    """Returns the sites that may be tried, and those that may not, each with the reason."""
    chosen, others = to_fit(found, sites)
    refused = [(path, reason) for path, reason in others if reason == "unpaired"]
    left = []
    for site in found:
        if site.path not in chosen:
            continue
        if fit == "exact" and finite_gap(site) > threshold:
            refused.append((site.path, f"gap {site.gap:.4f} over {threshold:g}"))
        elif fit != "exact" and site.layers > 1:
            refused.append((site.path, "stacked layers, which only an exact fuse can take"))
        else:
            left.append(site)
    return left, refused


def _ordered(trials: Trials, deep: Step, left: list[Site], order: Order, fit: AnyFit) -> list[str]:
    """Returns the paths of the sites in the order in which they are tried."""
    paths = [site.path for site in left]
    if order == "last":
        return paths[::-1]
    if order == "gap":
        return [site.path for site in sorted(reversed(left), key=finite_gap)]
    costs = _sensitivity(trials, deep.metric, paths, fit).cheapest_first
    return [cost.site for cost in costs]


def _deep(trials: Trials, variables: Any) -> Step:
    """Returns the step before the first."""
    nothing = rewrite(variables, set(), [], exactly(Truncation(None, 0.0)))[1]
    flops = sum(map(chain_flops, find_chains(params_of(variables))))
    metric = trials.score(variables)
    return Step(site=None, metric=metric, parameters=nothing.parameters_before, flops=flops)


def _step(trials: Trials, deep: Step, sites: list[str]) -> Step:
    """Returns the step whose site is the last of these, all of them collapsed."""
    compact, report = trials.collapse(sites)
    return Step(
        site=sites[-1],
        metric=trials.score(compact),
        parameters=report.parameters_after,
        flops=deep.flops - report.flops_before + report.flops_after,
    )


def _saves(variables: Any, taken: list[str], path: str) -> bool:
    """Tells whether one more site leaves less to compute, and no more parameters, than before."""
    report = abstract_collapse(variables, [*taken, path])[1]
    flops, parameters = report.flops_after - report.flops_before, report.parameters_after
    flops_now, parameters_now = 0, report.parameters_before
    if taken:
        now = abstract_collapse(variables, taken)[1]
        flops_now, parameters_now = now.flops_after - now.flops_before, now.parameters_after
    return flops < flops_now and parameters <= parameters_now
