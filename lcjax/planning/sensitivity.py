"""Sensitivity: the cost of each site on a metric of the user's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.calibration.statistics import with_progress
from lcjax.errors import BypassedError
from lcjax.planning.results import Sensitivity, SiteCost
from lcjax.planning.trials import MetricFn, Trials
from lcjax.structure.choice import SiteSelector, Skip, select_for_fit
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree


def sensitivity(
    apply_fn: Callable[..., Any] | None,
    variables: Mapping[str, Any],
    metric: MetricFn,
    data: CalibrationData | Iterable[Any] | None = None,
    *,
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Sensitivity:
    """Returns the metric with each site alone collapsed, whatever its slope.

    One pass over the batches for all sites, then one call of the metric for each. A site whose
    units the linear map of a later pair reads, as `Units(k, linear=True)` made it, cannot be
    collapsed alone and is in `skipped`.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; may be None with
        fit=Exact().
      variables: params or variables, as apply_fn takes them; nested dicts.
      metric: `metric(variables)` returns a number, higher is better, such as validation accuracy;
        it is called with the deep tree and with compact ones.
      data: batches, or `CalibrationData`; in memory or re-iterable; None with fit=Exact().
      sites: paths, globs, `re.Pattern`s or Sites; None takes every paired site.
      fit: `LeastSquares(...)`, `PerUnit(...)` or `Exact(...)`, whose `max_gap` is not checked.

    Raises:
      TypeError: batches that can be iterated only once, or missing.
      ValueError: a metric that is not finite; as `lcjax.calibrate` and `lcjax.collapse`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), nn.relu)
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> y = model.apply(variables, x)
      >>> costs = lcjax.sensitivity(
      ...     model.apply, variables, lambda v: -jnp.mean((model.apply(v, x) - y) ** 2), [x])
      >>> costs.costs[0].site, costs.costs[0].metric_drop > 0
      ('act_0', True)
    """
    model = ParamsTree(variables, apply_fn, "sensitivity")
    return sensitivity_of_model(model, metric, data, sites=sites, fit=fit)


def sensitivity_of_model(
    model: Collapsible,
    metric: MetricFn,
    data: CalibrationData | Iterable[Any] | None = None,
    *,
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Sensitivity:
    """Returns what `sensitivity` does, for a model of any front end."""
    trials = Trials(model, metric, data, fit, sequential=False)
    paths = select_for_fit(model.sites, sites, model.collapsed).chosen
    return measure_sites(trials, trials.evaluate(model.variables), paths, fit)


def measure_sites(trials: Trials, baseline: float, paths: Sequence[str], fit: Fit) -> Sensitivity:
    """Returns the cost of each site alone, given the metric of the deep model."""
    trials.prefetch_statistics([path] for path in paths)
    costs, skipped = [], []
    for path in with_progress(paths, "measuring sites", "site") if trials.progress else paths:
        try:
            metric, report = trials.measure([path])
        except BypassedError:
            skipped.append(Skip(path, "bypassed"))
            continue
        r2 = next((each.held_out_r2 for each in report.fits if each.tokens), None)
        costs.append(SiteCost(path, metric, baseline - metric, report.parameters_after, r2))
    return Sensitivity(baseline=baseline, costs=tuple(costs), fit=fit.name, skipped=tuple(skipped))
