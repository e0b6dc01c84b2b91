"""A traced call of a module, whose collapses give modules back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.errors import CollapseError
from lcjax.nnx.arguments import check_call, model_and_method
from lcjax.nnx.delivery import deliver
from lcjax.nnx.functional import ModuleFunction, module_function
from lcjax.nnx.owners import find_owners
from lcjax.nnx.undelivered import not_run, params_of_model, take_apart
from lcjax.planning.budgets import Budget
from lcjax.planning.candidates import ALL_CANDIDATES, Candidates
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.measuring.outputs import KL_DIVERGENCE, OutputMetric
from lcjax.planning.plan import Order
from lcjax.planning.results import Plan, Sensitivity
from lcjax.planning.trials import MetricFn
from lcjax.structure.choice import SiteSelector
from lcjax.structure.sites import Sites
from lcjax.surgery.report import CollapseReport
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.params.tree import FunctionParams, read_params
from lcjax.transform.traced_call import Data, TracedCall
from lcjax.tree.selection import choose, site_names


class _Call(TracedCall):
    """The call as one of a function, of which plans compare what the module returns."""

    def run(self, variables: Any, *inputs: Any) -> Any:
        return super().run(variables, *inputs)[0]

    @property
    def call(self) -> BoundCall:
        return self._call


class ModuleCall:
    """One call of an NNX module; made by `lcjax.nnx.trace`.

    The methods are those of `lcjax.TracedCall`, but a collapse returns a module. Where data is
    taken, a batch is the tuple of the module's inputs, or the one array that it takes; where a
    metric is taken, it is called with modules.

    It is a snapshot: training the module later does not change it.

    Example:
      >>> from flax import nnx
      >>> import jax, lcjax
      >>> model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2)))
      >>> lcjax.nnx.trace(model, jax.ShapeDtypeStruct((1, 4), "float32")).sites.paths
      ()
    """

    def __init__(
        self,
        model: nnx.Module,
        method: Callable[..., Any],
        call: _Call,
        inputs: Sequence[Any],
        kwargs: Mapping[str, Any],
    ):
        """Not called by users.

        Args:
          model: the deep model.
          method: runs it.
          call: of the method as a function.
          inputs: the inputs.
          kwargs: those given by name.
        """
        self._model, self._method, self._call = model, method, call
        self._inputs, self._kwargs = tuple(inputs), dict(kwargs)

    @property
    def call(self) -> TracedCall:
        """The call as one of a function of the Params, `{"model", "slopes", "fused"}`."""
        return self._call

    @property
    def sites(self) -> Sites:
        """The sites that are not collapsed yet, in forward order; prints as a table."""
        return self._call.sites

    def explain(self) -> Explanation:
        """Returns every Dense → … → Dense of the model, and why it is a site or why not."""
        return self._call.explain()

    def collapse(
        self,
        sites: SiteSelector = None,
        fit: Fit | None = None,
        *,
        calibration: Calibration | None = None,
    ) -> tuple[Any, CollapseReport]:
        """Returns a smaller module of the same classes, and a report; as `lcjax.collapse`.

        Raises:
          CollapseError: as `lcjax.collapse`; a pair that no method of one module runs; a Param of
            it that the module also has in another place.
        """
        tree, report = self._with_sites().collapse(sites, fit, calibration=calibration)
        return self._module(tree), report

    def calibrate(
        self, data: Data, sites: SiteSelector = None, fit: Fit = LEAST_SQUARES
    ) -> Calibration:
        """Returns statistics with which `collapse(calibration=...)` fits; as `lcjax.calibrate`."""
        return self._with_sites().calibrate(data, sites, fit)

    def collapse_sequential(
        self,
        data: Data,
        sites: SiteSelector = None,
        fit: Fit | Mapping[str, Fit] = LEAST_SQUARES,
    ) -> tuple[Any, CollapseReport]:
        """Returns the module with sites collapsed one segment after another, and the report.

        As `lcjax.collapse_sequential`; `fit=plan.fits` carries a plan out.
        """
        tree, report = self._with_sites().collapse_sequential(data, sites, fit)
        return self._module(tree), report

    def sensitivity(
        self,
        metric: MetricFn,
        data: Data | None = None,
        *,
        sites: SiteSelector = None,
        fit: Fit = LEAST_SQUARES,
    ) -> Sensitivity:
        """Returns the metric with each site collapsed alone; as `lcjax.sensitivity`."""
        return self._with_sites().sensitivity(self._on_modules(metric), data, sites=sites, fit=fit)

    def plan(
        self,
        metric: MetricFn,
        data: Data | None = None,
        *,
        budget: Budget,
        sites: SiteSelector = None,
        order: Order = "sensitivity",
        fit: Fit = LEAST_SQUARES,
    ) -> Plan:
        """Returns which sites to collapse within a budget; as `lcjax.plan`."""
        metric = self._on_modules(metric)
        return self._with_sites().plan(
            metric, data, budget=budget, sites=sites, order=order, fit=fit
        )

    def plan_fits(
        self,
        data: Data,
        *,
        budget: Budget | Sequence[Budget],
        candidates: Candidates | Sequence[Fit] = ALL_CANDIDATES,
        metric: OutputMetric | MetricFn = KL_DIVERGENCE,
        sites: SiteSelector = None,
        tolerance: float = 0.2,
    ) -> FitPlan:
        """Returns the fit of each site within budgets; as `lcjax.plan_fits`."""
        return self._with_sites().plan_fits(
            data,
            budget=budget,
            candidates=candidates,
            metric=metric if isinstance(metric, OutputMetric) else self._on_modules(metric),
            sites=sites,
            tolerance=tolerance,
        )

    def add_slopes(self, sites: SiteSelector = None) -> Any:
        """Returns the module with slopes of 0 at sites, as `lcjax.nnx.add_slopes`."""
        params = self._with_sites().call.params
        named = None if sites is None else site_names(sites)
        chosen = choose(self.sites.paths, sites=named)
        shapes = {site.path: site.stack for site in self._call.call.analysis.sites}
        new = {path: {"slope": jnp.zeros(shapes[path], jnp.float32)} for path in chosen}
        tree = FunctionParams(params.model, {**new, **params.slopes}, params.fused).tree
        return self._module(tree)

    def _with_sites(self) -> _Call:
        """Returns the call; raises CollapseError if there is no site."""
        if not self.sites:
            keys = self._call.call.params.keys.values()
            done = ", ".join(path for key in keys for path in key.sites)
            left = f" left: {done} collapsed already" if done else ""
            raise CollapseError(f"the module has no site{left}.\n{self.explain()}")
        return self._call

    def _module(self, tree: Any) -> Any:
        """Returns the module of a tree."""
        call = self._call.call.with_params(read_params(tree))
        owners = find_owners(self._model, call, self._method, self._inputs, self._kwargs)
        return deliver(self._model, owners)

    def _on_modules(self, metric: Any) -> Any:
        """Returns a metric of trees, given one of modules."""
        return (lambda tree: metric(self._module(tree))) if callable(metric) else metric


def trace(model: Any, /, *inputs: Any, **kwargs: Any) -> ModuleCall:
    """Returns a call of an NNX module, whose sites can be listed, calibrated and collapsed.

    Arguments of the module are given here, options of lcjax to the methods of what is returned.
    Nothing is computed. Trace the module as it is used at inference, after `model.eval()`.

    Args:
      model: a module; a method of one, `model.encode`, which runs instead of `__call__`; or
        `functools.partial(fn, model)` for a function `fn(model, *inputs)`. It is not changed.
      *inputs: the inputs; arrays or ShapeDtypeStructs.
      **kwargs: those given by name.

    Raises:
      TypeError: something other than a module; inputs that it does not take.
      CollapseError: a compact module of which this call runs some collapsed sites and not others.
    """
    module, method = model_and_method(model)
    check_call(method, module, inputs, kwargs)
    deep, added = take_apart(module)
    function, call = _bound(deep, method, inputs, kwargs)
    idle = not_run(call, added)
    if idle:
        deep, added = take_apart(module, idle)
        function, call = _bound(deep, method, inputs, kwargs)
    if added:
        call = call.with_params(params_of_model(call, added))
    traced = _Call(function.fn, call, (function.states,), kwargs)
    return ModuleCall(deep, method, traced, inputs, kwargs)


def _bound(
    model: nnx.Module,
    method: Callable[..., Any],
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[ModuleFunction, BoundCall]:
    """Returns a call of a deep model, as a function and traced."""
    function = module_function(model, method)
    params, args = FunctionParams(function.params, {}, {}), (function.states, *inputs)
    return function, bind_call(function.fn, params, args, kwargs, has_state=True)
