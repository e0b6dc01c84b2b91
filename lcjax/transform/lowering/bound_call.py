"""A traced call together with the arrays that it runs on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from lcjax.transform.analysis.reasons import Reason
from lcjax.transform.ir.program import Program, Value
from lcjax.transform.matching.find_sites import Analysis
from lcjax.transform.matching.tracing import CallTrace, as_array, trace_call
from lcjax.transform.params.keys import site_at
from lcjax.transform.params.tree import FunctionParams, restore_leaves
from lcjax.tree.encoding import strip_box_suffix


@dataclass(frozen=True, eq=False, repr=False)
class BoundCall:
    """A call of a function with the tree of a collapsible function.

    Attributes:
      trace: the call.
      params: the tree.
      leaves: of the model's params; ShapeDtypeStructs for those that were fused.
      inputs: the leaves of the other arguments, those of the state first; arrays or
        ShapeDtypeStructs.
    """

    trace: CallTrace
    params: FunctionParams
    leaves: list[Any]
    inputs: list[Any]

    @property
    def analysis(self) -> Analysis:
        """The sites of the program and what else was found in it."""
        return self.trace.analysis

    @property
    def program(self) -> Program:
        """The program."""
        return self.trace.analysis.program

    @cached_property
    def arrays(self) -> dict[Value, Any]:
        """Leaves of params and state by the value that holds them."""
        arrays = dict(zip(self.program.leaves, self.leaves, strict=True))
        return arrays | dict(zip(self.program.state, self.inputs, strict=False))

    @cached_property
    def leaf_names(self) -> dict[Value, str]:
        """Encoded paths of the leaves of params and state by the value that holds them."""
        values = [*self.program.leaves, *self.program.state]
        return dict(zip(values, self.trace.leaf_paths, strict=True))

    def name_of(self, leaf: Value | None) -> str:
        """Returns the encoded path of a leaf; "" for a kernel that is not one."""
        return "" if leaf is None else self.leaf_names[leaf]

    def reads(self, paths: Iterable[str]) -> bool:
        """Returns whether the call reads one of the leaves at these encoded paths."""
        wanted = {strip_box_suffix(path) for path in paths}
        leaves = [leaf for leaf in self.program.leaves if self._path_of(leaf) in wanted]
        return len(leaves) < len(wanted) or any(leaf.users for leaf in leaves)

    def _path_of(self, leaf: Value) -> str:
        return strip_box_suffix(self.leaf_names[leaf])

    def skips(self, path: str) -> bool:
        """Returns whether the call reads no leaf of the site at a path, which params have."""
        own = [leaf for leaf in self.program.leaves if site_at(self._path_of(leaf)) == path]
        return bool(own) and not any(leaf.users for leaf in own)

    def with_params(self, params: FunctionParams) -> "BoundCall":
        """Returns the same call with another tree for the same function."""
        model = restore_leaves(params.model, params.removed)
        leaves = [as_array(leaf) for leaf in jax.tree.leaves(model)]
        return BoundCall(self.trace, params, leaves, self.inputs)

    def rejection(self, path: str) -> Reason | None:
        """Returns why there is no site at a path, if that is known."""
        return next((reason for name, reason in self.analysis.rejected if name == path), None)


def bind_call(
    fn: Callable[..., Any],
    params: FunctionParams,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    has_state: bool,
) -> BoundCall:
    """Returns a call of a function, traced, with its arrays.

    Raises:
      CollapseError: as `trace_call`.
    """
    model = restore_leaves(params.model, params.removed)
    trace, leaves, inputs = trace_call(fn, model, args, kwargs, has_state=has_state)
    return BoundCall(trace, params, leaves, inputs)
