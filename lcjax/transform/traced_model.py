"""A traced call of a function as a model whose sites are observed and rewritten."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Self

from lcjax.algebra.abstract import shapes_of
from lcjax.structure.front_end import Observe, Observed, Pairs, Pull, Rebuilt, Size
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites
from lcjax.transform.call import run_call
from lcjax.transform.costs import flops_of, sites_of
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.lowering.rebuild import rebuild_params
from lcjax.transform.lowering.segments import check_unread, segments_of
from lcjax.transform.lowering.site_chains import neighbours
from lcjax.transform.observing.observe import check_observable, observed_values
from lcjax.transform.params.tree import read_params
from lcjax.transform.token_weights import token_weights
from lcjax.tree.paths import leaves_by_path
from lcjax.tree.slopes import count_parameters


class TracedModel:
    """One call of a collapsible function with its tree, as a `Collapsible` model."""

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
    def chains(self) -> list[tuple[str, ...]]:
        """The paths of all sites, those of neighbouring Dense layers together."""
        return [chain.paths for chain in neighbours(self._call.analysis.sites)]

    @property
    def size(self) -> Size:
        """Parameters of the tree, and FLOPs of all Dense layers that sites connect."""
        paths = [site.path for site in self._call.analysis.sites]
        return Size(count_parameters(self.variables), flops_of(self._call, paths))

    def run(self, variables: Any, *inputs: Any) -> Any:
        """Returns what the function returns for a tree and inputs, those of a batch."""
        args, params = (*self._fixed, *inputs), read_params(variables)
        return run_call(
            bind_call(self._fn, params, args, self._kwargs, has_state=bool(self._fixed))
        )

    def forward_order(self, batch: tuple[Any, ...] | None) -> Sequence[str]:
        """Returns the paths of the sites in the order of the program."""
        return self.sites.paths

    def segments(self, chosen: Collection[str]) -> list[Segment]:
        """Returns the segments that removing the chosen sites makes; see `Collapsible`."""
        segments = segments_of(self._call, chosen)
        check_unread(self._call, segments)
        return segments

    def observe(
        self, segments: Sequence[Segment], observed: Observed, pull: Pull | None = None
    ) -> Observe:
        """Returns a function that runs the function and returns what flows through segments."""
        check_observable(self._call, segments)

        def observe(variables: Any, compact: Any, batch: tuple[Any, ...]) -> Pairs:
            args, params = (*self._fixed, *batch), read_params(variables)
            call = bind_call(self._fn, params, args, self._kwargs, has_state=bool(self._fixed))
            inputs = call if compact is None else call.with_params(read_params(compact))
            weigh = None
            if pull is not None:
                weigh = partial(token_weights, call, partial(pull, batch=batch))
            return observed_values(call, inputs, segments, observed, weigh)

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

    def with_variables(self, variables: Any) -> Self:
        """Returns the call with another tree of the same function; see `Collapsible`."""
        call = self._call.with_params(read_params(variables))
        return type(self)(self._fn, call, self._fixed, self._kwargs)

    def abstract(self) -> Self:
        """Returns the call with ShapeDtypeStructs, with their shardings, for arrays."""
        params = read_params(shapes_of(self._call.params.tree))
        return type(self)(self._fn, self._call.with_params(params), self._fixed, self._kwargs)

    @cached_property
    def _sites(self) -> Sites:
        return sites_of(self._call)


def _touched(call: BoundCall, segments: Iterable[Segment]) -> tuple[str, ...]:
    """Returns the paths of all sites of the chains that segments are in."""
    sites = {path for segment in segments for path in segment.sites}
    chains = [chain.paths for chain in neighbours(call.analysis.sites)]
    return tuple(path for paths in chains if not sites.isdisjoint(paths) for path in paths)
