"""A traced call of a function: the front end by which any JAX function is collapsed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax

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
from lcjax.transform.params.tree import FunctionParams, read_params, shapes_of
from lcjax.tree.paths import leaf_path
from lcjax.tree.slopes import count_parameters

Data = CalibrationData | Iterable[Any]


class TracedCall:
    """One call of a collapsible function with its tree; made by `lcjax.collapsible(fn).trace`.

    It is a snapshot: it keeps the tree, the keyword arguments and, of a function with state, the
    state that it was traced with. Where data is taken, a batch is the tuple of the function's
    inputs (those after the params, and after the state), or the one array that it takes; what the
    function reads from outside is read again for every shape of batch.

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

        As `lcjax.collapse`: each chosen activation is taken for the identity, exact at slope 1 in
        inference, or replaced by what `calibrate` found on data; the kernels around it fuse, with
        biases and norms between them folded in. In `compact["fused"]` the key of every entry names
        its sites, their widths, and the removed leaves of the model: all that is needed to trace
        the original function again.

        Args:
          sites: paths, globs, Sites or a Plan; None takes every site within the fit's `max_gap`, or
            those that were calibrated. Under `jax.jit` they must be given, and gaps are not
            checked.
          fit: as for `lcjax.collapse`.
          calibration: what `calibrate` returned for this tree.
          slopes_from: as for `lcjax.collapse`.

        Returns:
          `(compact, report)`; call the function with `compact` in the place of its params.

        Raises:
          CollapseError: as `lcjax.collapse`; a site that is collapsed already; one whose norm uses
            statistics of the batch in this call.
        """
        return collapse_model(self, sites, fit, calibration=calibration, slopes_from=slopes_from)

    def abstract_collapse(
        self, sites: SiteSelector, fit: Fit | None = None
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed.

        `lcjax.restore(path, like=shapes)` needs it where the model's params are not plain dicts.
        Biases that a fit adds are not in it; `restore` takes those from the checkpoint.

        Args:
          sites: paths, globs or Sites.
          fit: as for `lcjax.abstract_collapse`.
        """
        return abstract_collapse_model(self, sites, fit)

    def calibrate(
        self, data: Data, sites: SiteSelector = None, fit: Fit = LEAST_SQUARES
    ) -> Calibration:
        """Returns statistics with which `collapse(calibration=...)` fits the chosen sites.

        As `lcjax.calibrate`. Axes of a mask are those of the tokens (the axes that a Dense does not
        sum over), from the first on.

        Args:
          data: `CalibrationData`, or an iterable of batches.
          sites: paths, globs, Sites or a Plan; None takes every site.
          fit: `LeastSquares` or `PerUnit`.

        Raises:
          CollapseError: as `collapse` for sites; a site within a scan; a mask of another shape;
            values that are not finite; nothing counts.
        """
        return calibrate_model(self, data, sites, fit)

    def collapse_sequential(
        self, data: Data, sites: SiteSelector = None, fit: Fit = LEAST_SQUARES
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns the tree with sites collapsed one segment after another, and the report.

        As `lcjax.collapse_sequential`: each segment is fitted on what the compact model feeds it,
        so that later ones make up for the errors of earlier ones.

        Args:
          data: `CalibrationData`, or batches that can be iterated more than once.
          sites: paths, globs, Sites or a Plan; None takes every site.
          fit: `LeastSquares` or `PerUnit`.
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
        """Returns the metric with each site collapsed alone, as `lcjax.sensitivity`.

        Args:
          metric: `metric(tree)` returns a number, higher is better; called with this tree and with
            compact ones.
          data: as for `collapse_sequential`; None for `Exact`.
          sites: paths, globs or Sites; None takes every site.
          fit: how sites are replaced.
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
        """Returns which sites to collapse within a budget, as `lcjax.plan`.

        Args:
          metric: as for `sensitivity`.
          data: as for `collapse_sequential`; None for `Exact`.
          budget: `MaxDrop`, `Params`, `Flops` or `Count`.
          sites: paths, globs or Sites that may be taken; None takes every site.
          order: in which sites are tried: "sensitivity", "last" or "gap".
          fit: how sites are replaced.
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
        sites = {path for segment in replacements for path in segment.sites}
        touched = [
            path
            for chain in neighbours(self._call.analysis.sites)
            if not sites.isdisjoint(chain.paths)
            for path in chain.paths
        ]
        leaves = _flat(params)
        prefixes = tuple(f"fused/{key}/" for key in keys)
        after = self._call.with_params(params)
        return Rebuilt(
            tree=params.tree,
            written=tuple(path for path in leaves if path.startswith(prefixes)),
            removed=tuple(path for path in self._leaves if path not in leaves),
            before=Size(count_parameters(self.variables), flops_of(self._call, touched)),
            after=Size(count_parameters(params.tree), flops_of(after, touched)),
            touched=tuple(touched),
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

    @cached_property
    def _leaves(self) -> dict[str, Any]:
        return _flat(self._call.params)


def _flat(params: FunctionParams) -> dict[str, Any]:
    """Returns the leaves of a tree by path."""
    flat = jax.tree_util.tree_flatten_with_path(params.tree)[0]
    return {leaf_path(keys): leaf for keys, leaf in flat}
