"""A traced call of a function: the front end by which any JAX function is collapsed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lcjax.algebra.abstract import shapes_of
from lcjax.calibration.calibrate import Calibration, calibrate_model
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.planning.budgets import Budget
from lcjax.planning.plan import Order, plan_model
from lcjax.planning.results import Plan, Sensitivity
from lcjax.planning.sensitivity import sensitivity_of_model
from lcjax.planning.trials import MetricFn
from lcjax.structure.choice import SiteSelector
from lcjax.structure.front_end import Observe, Observed, Pairs, Rebuilt, Size
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites
from lcjax.surgery.collapse import abstract_collapse_model, collapse_model
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.sequential import collapse_model_sequential
from lcjax.transform.costs import flops_of, sites_of
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.lowering.observe import check_observable, observed_values
from lcjax.transform.lowering.rebuild import rebuild_params
from lcjax.transform.lowering.segments import check_unread, segments_of
from lcjax.transform.lowering.site_chains import neighbours
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.params.tree import read_params
from lcjax.tree.paths import leaves_by_path
from lcjax.tree.slopes import count_parameters

Data = CalibrationData | Iterable[Any]


class TracedCall:
    """One call of a collapsible function with its tree; made by `lcjax.collapsible(fn).trace`.

    It is a snapshot: of the tree, the keyword arguments and, of a function with state, the state.
    Where data is taken, a batch is the tuple of the function's inputs (those after the params, and
    after the state), or the one array that it takes; what the function reads from outside is read
    again for every shape of batch.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
      >>> x = jax.random.normal(jax.random.key(0), (64, 2))
      >>> call = f.trace({"up": jnp.ones((2, 4)), "down": jnp.ones((4, 2))}, x)
      >>> compact, report = call.collapse(calibration=call.calibrate([x]))
      >>> f(compact, x).shape, report.collapsed
      ((64, 2), ('up',))
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        call: BoundCall,
        fixed: Sequence[Any],
        kwargs: Mapping[str, Any],
    ):
        """Not called by users.

        Args:
          fn: the function.
          call: the call, with the tree.
          fixed: the state, of a function that has one.
          kwargs: the function's arguments given by name.
        """
        self._fn, self._call = fn, call
        self._fixed, self._kwargs = tuple(fixed), dict(kwargs)

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
        widths, how many units stay, and the removed leaves of the model: all that is needed to
        trace the original function again. An entry is a Dense or its factors; where units stay,
        `layers` with `bypass`, which is added to the output, `gates`, and `vectors`: what differs
        from unit to unit, as in a norm.

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
        fit: Fit | Mapping[str, Fit] = LEAST_SQUARES,
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

    # What follows implements `lcjax.structure.front_end.Collapsible`.

    @property
    def variables(self) -> dict[str, Any]:
        """The tree: `{"model": ..., "slopes": ..., "fused": ...}`."""
        return self._call.params.tree

    @property
    def sites(self) -> Sites:
        """The sites that are not fused yet, in forward order; prints as a table."""
        return self._sites

    @property
    def collapsed(self) -> Collection[str]:
        """Paths of the sites that are fused."""
        return self._call.params.collapsed

    @property
    def size(self) -> Size:
        """Parameters of the tree, and FLOPs of all Dense layers that sites connect."""
        paths = [site.path for site in self._call.analysis.sites]
        return Size(count_parameters(self.variables), flops_of(self._call, paths))

    def forward_order(self, batch: tuple[Any, ...] | None) -> Sequence[str]:
        """Returns the paths of the sites in the order of the program."""
        return self.sites.paths

    def segments(self, chosen: Collection[str]) -> list[Segment]:
        """Returns the segments that removing the chosen sites makes; see `Collapsible`."""
        segments = segments_of(self._call, chosen)
        check_unread(self._call, segments)
        return segments

    def observe(self, segments: Sequence[Segment], observed: Observed) -> Observe:
        """Returns a function that runs the function and returns what flows through segments."""
        check_observable(self._call, segments)

        def observe(variables: Any, compact: Any, batch: tuple[Any, ...]) -> Pairs:
            args, params = (*self._fixed, *batch), read_params(variables)
            call = bind_call(self._fn, params, args, self._kwargs, has_state=bool(self._fixed))
            inputs = call if compact is None else call.with_params(read_params(compact))
            return observed_values(call, inputs, segments, observed)

        return observe

    def rebuild(self, replacements: Mapping[Segment, Replacement]) -> Rebuilt:
        """Returns the tree with segments replaced; see `Collapsible`."""
        if not replacements:
            size = Size(self.size.parameters, 0)
            return Rebuilt(self.variables, (), (), size, size)
        params, keys = rebuild_params(self._call, replacements)
        touched = _touched(self._call, replacements)
        leaves = leaves_by_path(params.tree)
        prefixes = tuple(f"fused/{key}/" for key in keys)
        after = self._call.with_params(params)
        return Rebuilt(
            tree=params.tree,
            written=tuple(path for path in leaves if path.startswith(prefixes)),
            removed=tuple(path for path in leaves_by_path(self.variables) if path not in leaves),
            before=Size(count_parameters(self.variables), flops_of(self._call, touched)),
            after=Size(count_parameters(params.tree), flops_of(after, touched)),
            touched=touched,
        )

    def with_variables(self, variables: Any) -> "TracedCall":
        """Returns the call with another tree of the same function; see `Collapsible`."""
        call = self._call.with_params(read_params(variables))
        return TracedCall(self._fn, call, self._fixed, self._kwargs)

    def abstract(self) -> "TracedCall":
        """Returns the call with ShapeDtypeStructs, with their shardings, for arrays."""
        params = read_params(shapes_of(self._call.params.tree))
        return TracedCall(self._fn, self._call.with_params(params), self._fixed, self._kwargs)

    @cached_property
    def _sites(self) -> Sites:
        return sites_of(self._call)


def _touched(call: BoundCall, segments: Iterable[Segment]) -> tuple[str, ...]:
    """Returns the paths of all sites of the chains that segments are in."""
    sites = {path for segment in segments for path in segment.sites}
    chains = [chain.paths for chain in neighbours(call.analysis.sites)]
    return tuple(path for paths in chains if not sites.isdisjoint(paths) for path in paths)
