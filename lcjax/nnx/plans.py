"""Plans for the sites of an NNX module, each as one function."""

from collections.abc import Sequence
from typing import Any

from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.nnx.functions import traced
from lcjax.planning.budgets import Budget
from lcjax.planning.candidates import ALL_CANDIDATES, Candidates
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.measuring.outputs import KL_DIVERGENCE, OutputMetric
from lcjax.planning.plan import Order
from lcjax.planning.results import Plan, Sensitivity
from lcjax.planning.trials import MetricFn
from lcjax.structure.choice import SiteSelector
from lcjax.transform.traced_call import Data


def plan_fits(
    model: Any,
    data: Data,
    /,
    *inputs: Any,
    budget: Budget | Sequence[Budget],
    candidates: Candidates | Sequence[Fit] = ALL_CANDIDATES,
    metric: OutputMetric | MetricFn = KL_DIVERGENCE,
    sites: SiteSelector = None,
    tolerance: float = 0.2,
) -> FitPlan:
    """Returns the fit of each site within budgets; as `lcjax.plan_fits`.

    Args:
      model: as for `lcjax.nnx.trace`.
      data: batches of inputs, or `lcjax.CalibrationData`.
      *inputs: example inputs; none for the first batch.
      budget: one or several, as for `lcjax.plan_fits`.
      candidates: `Candidates(...)`, or a list of fits.
      metric: `KLDivergence()` or `RelativeError()` of the outputs, or `metric(module)`, which
        returns a number, higher is better.
      sites: those that may be taken; None for all.
      tolerance: as for `lcjax.plan_fits`.

    Raises:
      CollapseError: as `lcjax.plan_fits`; a module without sites.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> metric = lcjax.RelativeError()
      >>> plan = lcjax.nnx.plan_fits(model, data, budget=lcjax.Params(0.5), metric=metric)
      >>> compact, report = lcjax.nnx.collapse_sequential(model, data, fit=plan.fits)
      >>> report.parameters_after <= 0.5 * report.parameters_before
      True
    """
    call = traced(model, data, inputs)
    return call.plan_fits(
        data,
        budget=budget,
        candidates=candidates,
        metric=metric,
        sites=sites,
        tolerance=tolerance,
    )


def plan(
    model: Any,
    metric: MetricFn,
    data: Data,
    /,
    *inputs: Any,
    budget: Budget,
    sites: SiteSelector = None,
    order: Order = "sensitivity",
    fit: Fit = LEAST_SQUARES,
) -> Plan:
    """Returns which sites to collapse within a budget; as `lcjax.plan`.

    Args:
      model: as for `lcjax.nnx.trace`.
      metric: `metric(module)` returns a number, higher is better.
      data: batches of inputs, or `lcjax.CalibrationData`.
      *inputs: example inputs; none for the first batch.
      budget: as for `lcjax.plan`.
      sites: those that may be taken; None for all.
      order: as for `lcjax.plan`.
      fit: how they are collapsed.

    Raises:
      CollapseError: as `lcjax.plan`; a module without sites.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> y = model(x)
      >>> metric = lambda module: -float(((module(x) - y) ** 2).mean())
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> lcjax.nnx.plan(model, metric, data, budget=lcjax.Count(1)).sites
      ('layers/0',)
    """
    call = traced(model, data, inputs)
    return call.plan(metric, data, budget=budget, sites=sites, order=order, fit=fit)


def sensitivity(
    model: Any,
    metric: MetricFn,
    data: Data,
    /,
    *inputs: Any,
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Sensitivity:
    """Returns the metric with each site collapsed alone; as `lcjax.sensitivity`.

    Args:
      model: as for `lcjax.nnx.trace`.
      metric: `metric(module)` returns a number, higher is better.
      data: batches of inputs, or `lcjax.CalibrationData`.
      *inputs: example inputs; none for the first batch.
      sites: those that are tried; None for all.
      fit: how they are collapsed.

    Raises:
      CollapseError: as `lcjax.sensitivity`; a module without sites.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> y = model(x)
      >>> metric = lambda module: -float(((module(x) - y) ** 2).mean())
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> [cost.site for cost in lcjax.nnx.sensitivity(model, metric, data).costs]
      ['layers/0']
    """
    return traced(model, data, inputs).sensitivity(metric, data, sites=sites, fit=fit)
