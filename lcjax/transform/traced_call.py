"""A traced call of a function: the front end by which any JAX function is collapsed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lcjax.calibration.calibrate import Calibration, calibrate_model
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.planning.budgets import Budget
from lcjax.planning.candidates import ALL_CANDIDATES, Candidates
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.measuring.outputs import KL_DIVERGENCE, OutputMetric
from lcjax.planning.plan import Order, plan_model
from lcjax.planning.plan_fits import plan_fits_of_model
from lcjax.planning.results import Plan, Sensitivity
from lcjax.planning.sensitivity import sensitivity_of_model
from lcjax.planning.trials import MetricFn
from lcjax.structure.choice import SiteSelector
from lcjax.surgery.collapse import abstract_collapse_model, collapse_model
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.sequential import collapse_model_sequential
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.traced_model import TracedModel

Data = CalibrationData | Iterable[Any]


class TracedCall(TracedModel):
    """One call of a collapsible function with its tree; made by `lcjax.collapsible(fn).trace`.

    It is a snapshot: of the tree, the keyword arguments and, of a function with state, the state.
    Where data is taken, a batch is the tuple of the function's inputs (those after the params, and
    after the state), or the one array that it takes; what the function reads from outside is read
    again for every shape of batch.

    Attributes:
      sites: the sites of the call, in forward order.
      collapsed: paths of those that are collapsed already.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
      >>> x = jax.random.normal(jax.random.key(0), (64, 2))
      >>> call = f.trace({"up": jnp.ones((2, 4)), "down": jnp.ones((4, 2))}, x)
      >>> compact, report = call.collapse(calibration=call.calibrate([x]))
      >>> f(compact, x).shape, report.collapsed
      ((64, 2), ('up',))
    """

    def explain(self) -> Explanation:
        """Returns every Dense → … → Dense of the function, and why it is a site or why not."""
        return Explanation.of(self._call.analysis, self._call.params)

    def collapse(
        self,
        sites: SiteSelector = None,
        fit: Fit | None = None,
        *,
        calibration: Calibration | None = None,
        slopes_from: Any = None,
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns a smaller tree for the same function, and a report of what was done.

        As `lcjax.collapse`, with its arguments; call the function with the compact tree in the
        place of its params. With `Units` an activation stays, and the function's own operations
        run on fewer units. In `compact["fused"]` the key of every entry names its sites, their
        forms and widths, how many units stay, and the removed leaves of the model: all that is
        needed to trace the original function again; `lcjax.FusedKey` reads it. An entry is a Dense
        or its factors; where units stay, `layers` with `bypass`, which is added to the output,
        `gates`, and `vectors`: what differs from unit to unit, as in a norm.

        Raises:
          CollapseError: as `lcjax.collapse`; a site that is collapsed already; one whose norm uses
            statistics of the batch in this call.
        """
        return collapse_model(self, sites, fit, calibration=calibration, slopes_from=slopes_from)

    def abstract_collapse(
        self, sites: SiteSelector, fit: Fit | None = None
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed.

        As `lcjax.abstract_collapse`. `lcjax.restore(path, like=shapes)` needs it where the model's
        params are not plain dicts. Biases that a fit adds are not in it; `restore` takes those from
        the checkpoint.
        """
        return abstract_collapse_model(self, sites, fit)

    def calibrate(
        self, data: Data, sites: SiteSelector = None, fit: Fit = LEAST_SQUARES
    ) -> Calibration:
        """Returns statistics with which `collapse(calibration=...)` fits the chosen sites.

        As `lcjax.calibrate`, with its arguments and errors. Axes of a mask are those of the tokens
        (the axes that a Dense does not sum over), from the first on.
        """
        return calibrate_model(self, data, sites, fit)

    def collapse_sequential(
        self,
        data: Data,
        sites: SiteSelector = None,
        fit: Fit | Mapping[Any, Fit] = LEAST_SQUARES,
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns the tree with sites collapsed one segment after another, and the report.

        As `lcjax.collapse_sequential`, with its arguments and errors.
        """
        return collapse_model_sequential(self, data, sites, fit)

    def sensitivity(
        self,
        metric: MetricFn,
        data: Data | None = None,
        *,
        sites: SiteSelector = None,
        fit: Fit = LEAST_SQUARES,
    ) -> Sensitivity:
        """Returns the metric with each site collapsed alone; as `lcjax.sensitivity`.

        The metric is called with trees, this one and compact ones.
        """
        return sensitivity_of_model(self, metric, data, sites=sites, fit=fit)

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
        """Returns which sites to collapse within a budget; as `lcjax.plan`, with its arguments.

        The metric is called with trees, this one and compact ones.
        """
        return plan_model(self, metric, data, budget=budget, sites=sites, order=order, fit=fit)

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
        """Returns the fit of each site within budgets, as `lcjax.plan_fits`.

        Args:
          data: as for `collapse_sequential`.
          budget: one or several, as for `lcjax.plan_fits`.
          candidates: `Candidates(...)`, or a list of fits.
          metric: `KLDivergence()` or `RelativeError()` of what the function returns, or
            `metric(tree)`, which returns a number, higher is better.
          sites: paths, globs, `re.Pattern`s or Sites that may be taken; None takes every site.
          tolerance: as for `lcjax.plan_fits`.
        """
        return plan_fits_of_model(
            self,
            self.run,
            data,
            budget=budget,
            candidates=candidates,
            metric=metric,
            sites=sites,
            tolerance=tolerance,
        )
