"""A traced call that returns models of a library in the place of compact trees."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.errors import CollapseError
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
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.traced_call import Data, TracedCall

Model = TypeVar("Model")


class ConvertedCall(Generic[Model]):
    """A `TracedCall` whose methods return what the users of a library run.

    Made by `lcjax.linen.Collapsed(model).trace` and `lcjax.eqx.trace`; that of `lcjax.nnx.trace` is
    a subclass. Methods have the arguments and errors of `lcjax.TracedCall`; a metric is called with
    what `collapse` returns.

    Raises:
      CollapseError: from every method that takes sites, a model without any; says why.
    """

    def __init__(self, call: TracedCall, convert: Callable[[dict[str, Any]], Model]):
        """Not called by users.

        Args:
          call: the traced call.
          convert: returns the model for a tree of the collapsible function.
        """
        self._call, self._convert = call, convert

    @property
    def sites(self) -> Sites:
        """The sites that are not collapsed yet, in forward order; prints as a table."""
        return self._call.sites

    @property
    def variables(self) -> Model:
        """The model that was traced, with its slopes."""
        return self._convert(self._call.variables)

    def explain(self) -> Explanation:
        """Returns every Dense → … → Dense of the model, and why it is a site or why not."""
        return self._call.explain()

    def calibrate(
        self, data: Data, sites: SiteSelector = None, fit: Fit = LEAST_SQUARES
    ) -> Calibration:
        """Returns statistics for `collapse(calibration=...)`; as `TracedCall.calibrate`."""
        return self._with_sites().calibrate(data, sites, fit)

    def collapse(
        self,
        sites: SiteSelector = None,
        fit: Fit | None = None,
        *,
        calibration: Calibration | None = None,
        slopes_from: Any = None,
    ) -> tuple[Model, CollapseReport]:
        """Returns a smaller model and a report of what was done; as `TracedCall.collapse`."""
        tree, report = self._with_sites().collapse(
            sites, fit, calibration=calibration, slopes_from=slopes_from
        )
        return self._convert(tree), report

    def abstract_collapse(
        self, sites: SiteSelector, fit: Fit | None = None
    ) -> tuple[Model, CollapseReport]:
        """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed."""
        tree, report = self._with_sites().abstract_collapse(sites, fit)
        return self._convert(tree), report

    def collapse_sequential(
        self,
        data: Data,
        sites: SiteSelector = None,
        fit: Fit | Mapping[Any, Fit] = LEAST_SQUARES,
    ) -> tuple[Model, CollapseReport]:
        """Returns the model with sites collapsed one segment after another, and the report."""
        tree, report = self._with_sites().collapse_sequential(data, sites, fit)
        return self._convert(tree), report

    def sensitivity(
        self,
        metric: MetricFn,
        data: Data | None = None,
        *,
        sites: SiteSelector = None,
        fit: Fit = LEAST_SQUARES,
    ) -> Sensitivity:
        """Returns the metric with each site collapsed alone; as `lcjax.sensitivity`."""
        return self._with_sites().sensitivity(self._of_trees(metric), data, sites=sites, fit=fit)

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
        return self._with_sites().plan(
            self._of_trees(metric), data, budget=budget, sites=sites, order=order, fit=fit
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
        """Returns the fit of each site within budgets; as `TracedCall.plan_fits`.

        `collapse_sequential(data, fit=plan.fits)` carries it out.
        """
        return self._with_sites().plan_fits(
            data,
            budget=budget,
            candidates=candidates,
            metric=metric if isinstance(metric, OutputMetric) else self._of_trees(metric),
            sites=sites,
            tolerance=tolerance,
        )

    def _with_sites(self) -> TracedCall:
        """Returns the call; raises CollapseError if there is no site."""
        if not self.sites:
            done = ", ".join(sorted(self._call.collapsed))
            left = f" left: {done} collapsed already" if done else ""
            raise CollapseError(f"the model has no site{left}.\n{self.explain()}")
        return self._call

    def _of_trees(self, metric: Any) -> Any:
        """Returns a metric of models as one of trees; what is no function is left for checks."""
        if isinstance(metric, type) or not callable(metric):
            return metric
        return lambda tree: metric(self._convert(tree))
