"""A call of a function, traced to a program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.transform.ir.opening import open_program
from lcjax.transform.ir.program import Value
from lcjax.transform.ir.updates import changed
from lcjax.transform.matching.find_sites import Analysis, find_all
from lcjax.transform.params.keys import site_of_kernel
from lcjax.tree.encoding import encode
from lcjax.validation.functions import explained


@dataclass(frozen=True, eq=False, repr=False)
class CallTrace:
    """A call of the function with given shapes.

    Attributes:
      analysis: of its program.
      paths: the encoded paths of the leaves of the model's params.
      state_paths: those of the leaves of its state.
      out_paths: those of the leaves of its outputs.
      out: the structure of its outputs.
    """

    analysis: Analysis
    paths: tuple[str, ...]
    state_paths: tuple[str, ...]
    out_paths: tuple[str, ...]
    out: Any

    @property
    def leaf_paths(self) -> tuple[str, ...]:
        """The encoded paths of the leaves of params and state."""
        return self.paths + self.state_paths


def trace_call(
    fn: Callable[..., Any],
    model: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    has_state: bool = False,
) -> tuple[CallTrace, list[Any], list[Any]]:
    """Returns the traced call, the leaves of the model's params, and those of the inputs.

    Every call is traced: values that the function reads from outside may have changed.

    Args:
      fn: the function.
      model: all params; arrays or ShapeDtypeStructs.
      args: the function's other arguments; leaves that are not arrays are not traced.
      kwargs: those given by name.
      has_state: whether the first of args is state.

    Raises:
      CollapseError: a leaf of the params that is not an array.
      TypeError: no state for a function with state.
    """
    if has_state and not args:
        raise TypeError(
            "got no argument after the params, expected the state: the function is collapsible "
            "with has_state=True. Give the state after the params, f(params, state, *args)."
        )
    flat, structure = jax.tree_util.tree_flatten_with_path(model)
    for keys, leaf in flat:
        if not _is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
            raise CollapseError(
                f"{encode(keys)}: got {type(leaf).__name__} in params, expected an array. Split "
                "off everything else: nnx.split, or eqx.partition(model, eqx.is_array)."
            )
    leaves = [as_array(leaf) for _, leaf in flat]
    inputs, inputs_structure = jax.tree.flatten((tuple(args), dict(kwargs)))
    arrays = [leaf for leaf in inputs if _is_array(leaf)]

    # JAX keeps traces by the function that is traced: this one is new in every call.
    def call(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        restore_leaves = [next(rest) if _is_array(leaf) else leaf for leaf in inputs]
        args, kwargs = jax.tree.unflatten(inputs_structure, restore_leaves)
        return fn(jax.tree.unflatten(structure, list(leaves)), *args, **kwargs)

    state, others = args[: int(has_state)], args[int(has_state) :]
    try:
        with explained(partial(fn, **kwargs), model, others, "the call", state):
            closed, out = jax.make_jaxpr(call, return_shape=True)(leaves, arrays)
    except Exception as error:
        error.add_note(
            "Raised by the function itself, traced by lcjax.collapsible. If it misses params: "
            "are these another model's, or a compact tree without its part `fused`?"
        )
        raise
    in_state = jax.tree_util.tree_flatten_with_path(state[0])[0] if has_state else []
    state_paths = tuple(encode(keys) for keys, leaf in in_state if _is_array(leaf))
    paths = tuple(encode(keys) for keys, _ in flat)
    structure = jax.tree.structure(out)
    settled: Any = None

    def returned(values: list[Value]) -> list[Value]:
        nonlocal settled
        settled = changed(jax.tree.unflatten(structure, values))
        return jax.tree.leaves(settled)

    program = open_program(closed, len(leaves), len(state_paths), returned)
    found = find_all(program, paths, [site_of_kernel(keys) for keys, _ in flat])
    outs, out = jax.tree_util.tree_flatten_with_path(settled)
    out_paths = tuple(encode(keys) for keys, _ in outs)
    return CallTrace(found, paths, state_paths, out_paths, out), leaves, arrays


def as_array(leaf: Any) -> Any:
    """Returns a leaf of params as an array: Python's numbers have no shape."""
    return leaf if _is_array(leaf) else jnp.asarray(leaf)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
