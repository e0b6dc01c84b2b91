"""A JAX function, unchanged, with the life cycle of a collapsible model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lcjax.calibration.calibrate import Calibration, Fit
from lcjax.calibration.masks import Mask
from lcjax.errors import CollapseError
from lcjax.structure.choice import Choice
from lcjax.structure.sites import Sites
from lcjax.surgery.replacement import Rank
from lcjax.surgery.report import CollapseReport
from lcjax.transform.calibrate import calibrate_function
from lcjax.transform.choosing import Method
from lcjax.transform.collapse import collapse_parts
from lcjax.transform.lowering.call import call
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.matching.tracing import CallTrace, trace
from lcjax.transform.params.tree import (
    FunctionParams,
    read_params,
    removed_leaves,
    restore_leaves,
    shapes_of,
)
from lcjax.transform.sites import sites_of
from lcjax.tree.slopes import with_slopes_from


class CollapsibleFunction:
    """What `lcjax.collapsible` returns; see there."""

    def __init__(self, fn: Callable[..., Any], has_state: bool = False):
        self._fn = fn
        self._has_state = has_state

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what the function returns, its activations bent and its fused sites fused.

        Args:
          params: what `init`, `collapse` or a restore returned.
          *args: the function's other arguments. Arrays are traced; the rest (`train=False`,
            `mutable=["batch_stats"]`) is as it is.
          **kwargs: those given by name.

        Returns:
          what the function returns. Of running statistics of a norm that was folded in, which a
          call as in training returns, those of the state come back as they were; those that were
          among the params are left out: dicts lose them, other containers have None.

        Raises:
          CollapseError: params of another function, or which are no such tree at all; a call that
            returns something else that a fused site no longer has.
        """
        traced, parts, leaves, arrays = self._open(params, args, kwargs)
        return call(traced, parts, leaves, arrays)

    def init(self, params: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns `{"model": params, "slopes": {site: {"slope": 0.0}}, "fused": {}}`.

        Slopes are float32; those of layers stacked by `lax.scan` are vectors. Nothing is computed.

        Args:
          params: the function's own; a pytree of arrays or ShapeDtypeStructs.
          *args: the function's other arguments; arrays or ShapeDtypeStructs.
          **kwargs: those given by name.

        Raises:
          CollapseError: no site, with what was left alone and why; params that are no arrays.
        """
        traced, _, _ = self._traced(params, args, kwargs)
        if not traced.analysis.sites:
            raise CollapseError(
                "the function has no site: no Dense → activation → Dense, of kernels that are "
                "leaves of params.\n"
                + str(Explanation.of(traced.analysis, FunctionParams(params, {}, {})))
            )
        abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
        slopes = {}
        for site in traced.analysis.sites:
            shape = jax.ShapeDtypeStruct(site.stack, jnp.float32)
            slopes[site.path] = {"slope": shape if abstract else jnp.zeros(site.stack, jnp.float32)}
        return {"model": params, "slopes": slopes, "fused": {}}

    def sites(self, params: Any, *args: Any, **kwargs: Any) -> Sites:
        """Returns the sites that are not fused yet, in forward order; prints as a table.

        Args:
          params: what `init`, `collapse` or a restore returned; arrays or ShapeDtypeStructs.
          *args: the function's other arguments; arrays or ShapeDtypeStructs.
          **kwargs: those given by name.
        """
        traced, parts, leaves, _ = self._open(params, args, kwargs)
        return sites_of(traced.analysis, parts, leaves)

    def explain(self, params: Any, *args: Any, **kwargs: Any) -> Explanation:
        """Returns every Dense → … → Dense there is, and why it is a site or why not.

        Args:
          params: what `init`, `collapse` or a restore returned; arrays or ShapeDtypeStructs.
          *args: the function's other arguments; arrays or ShapeDtypeStructs.
          **kwargs: those given by name.
        """
        traced, parts, _, _ = self._open(params, args, kwargs)
        return Explanation.of(traced.analysis, parts)

    def collapse(
        self,
        params: Any,
        *args: Any,
        sites: Choice = None,
        threshold: float = 0.05,
        fit: Literal["exact"] | Calibration = "exact",
        ridge: float = 1e-3,
        rank: Rank = None,
        tolerance: float = 0.05,
        slopes_from: Any = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], CollapseReport]:
        """Returns a smaller tree for the same function, and a report of what was done.

        As `lcjax.collapse`: each chosen activation is taken for the identity, exact at slope 1 in
        inference, or for what `calibrate` found on data; the kernels around it fuse, with biases
        and norms between them folded in.

        Args:
          params: what `init`, an earlier `collapse` or a restore returned; it is not changed.
          *args: the function's other arguments, at inference; arrays or ShapeDtypeStructs.
          sites: paths, globs, Sites or a Plan; None takes every site within the threshold, or
            those that were calibrated. Under `jax.jit` they must be given, and gaps are not
            checked.
          threshold: largest accepted gap `|1 − α|` of an exact fuse; dimensionless, at least 0.
          fit: "exact", or what `calibrate` returned for this tree.
          ridge: of least squares, as for `lcjax.collapse`.
          rank: as for `lcjax.collapse`.
          tolerance: as for `lcjax.collapse`.
          slopes_from: as for `lcjax.collapse`.
          **kwargs: the function's arguments given by name.

        Returns:
          `(compact, report)`. In compact["fused"] the key of every entry names its sites, the
          widths that are gone, and the leaves of the model that are: all that is needed to trace
          the function as it was.

        Raises:
          CollapseError: as `lcjax.collapse`; a site that is collapsed already; one whose norm uses
            statistics of the batch in this call.
          ValueError: a number out of range, an unknown fit.
        """
        method = Method(
            sites=sites,
            threshold=threshold,
            fit=fit,
            ridge=ridge,
            rank=rank,
            tolerance=tolerance,
        )
        judged = params if slopes_from is None else with_slopes_from(params, slopes_from)
        if isinstance(fit, Calibration):
            judged = params  # statistics are of its own slopes, and a fit takes any
        traced, parts, leaves, arrays = self._open(judged, args, kwargs)
        compact, report = collapse_parts(traced, parts, leaves, arrays, method)
        if slopes_from is not None:
            own = read_params(params).slopes
            compact |= {"slopes": {path: own[path] for path in compact["slopes"]}}
        return compact, report

    def calibrate(
        self,
        params: Any,
        batches: Iterable[Any],
        sites: Choice = None,
        *,
        fit: Fit = "least_squares",
        mask: Mask | None = None,
        holdout: float = 0.1,
        progress: bool = True,
        state: Any = None,
        **kwargs: Any,
    ) -> Calibration:
        """Returns statistics with which `collapse(params, ..., fit=...)` fits the chosen sites.

        As `lcjax.calibrate`, with this function's sites and their values.

        Args:
          params: what `init`, `collapse` or a restore returned.
          batches: any iterable, of any length; a batch is the tuple of the function's arguments
            after the params, or the one array that it takes.
          sites: paths, globs, Sites or a Plan; None takes every site.
          fit: "least_squares" or "moments".
          mask: `mask(*batch)` returns which positions count, its axes those of the tokens (the axes
            that a Dense does not sum over), from the first on.
          holdout: part of the rows that is held out, in [0, 1).
          progress: whether a pass that takes long shows a bar (where tqdm is installed).
          state: of a function with has_state, its state, the same for every batch.
          **kwargs: the function's arguments given by name, at inference, the same for every batch.

        Raises:
          CollapseError: as `collapse` for sites; a site within a scan; a mask of another shape;
            values that are not finite; nothing counts.
          ValueError: no batch; an unknown fit; a holdout out of range.
          TypeError: batches that are one array.
        """
        if state is not None and not self._has_state:
            kwargs["state"] = state
        before = (state,) if self._has_state else ()
        return calibrate_function(
            lambda params, batch: self._open(params, (*before, *batch), kwargs),
            params,
            batches,
            sites,
            fit=fit,
            mask=mask,
            holdout=holdout,
            progress=progress,
        )

    def abstract_compact(
        self,
        params: Any,
        *args: Any,
        sites: Choice,
        fit: Literal["exact"] | Calibration = "exact",
        rank: Rank = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the tree that `collapse` returns for these sites, in ShapeDtypeStructs.

        What `lcjax.restore(path, like=...)` needs where the model's params are not plain dicts. The
        biases that a fit adds, and the factors of a rank, are not in it; `restore` takes those from
        the checkpoint.

        Args:
          params: what `init` returns, of arrays or ShapeDtypeStructs; with a fit or a rank, on
            which shapes depend then, the arrays that were collapsed.
          *args: the function's other arguments; arrays or ShapeDtypeStructs.
          sites: paths, globs or Sites.
          fit: as for `collapse`.
          rank: as for `collapse`.
          **kwargs: the function's arguments given by name; ridge and tolerance, as for `collapse`.
        """
        if fit == "exact" and rank is None:
            shapes = shapes_of(params)
            return self.collapse(shapes, *args, sites=sites, **kwargs)[0]
        how: Any = dict(sites=sites, fit=fit, rank=rank, threshold=math.inf)
        return shapes_of(self.collapse(params, *args, **how, **kwargs)[0])

    def _traced(
        self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[CallTrace, list[Any], list[Any]]:
        return trace(self._fn, model, args, kwargs, has_state=self._has_state)

    def _open(
        self, params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[CallTrace, FunctionParams, list[Any], list[Any]]:
        """Returns the traced call, the parts of the tree, and the leaves of params and inputs."""
        parts = read_params(params)
        model = restore_leaves(parts.model, removed_leaves(parts.fused))
        traced, leaves, arrays = self._traced(model, args, kwargs)
        return traced, parts, leaves, arrays
