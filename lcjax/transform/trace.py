"""A call of a function, traced to a program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.transform.found import Found, find_all
from lcjax.transform.keys import encode, site_name
from lcjax.transform.program import open_program


@dataclass(frozen=True, eq=False, repr=False)
class Traced:
    """A call of the function with given shapes.

    Attributes:
      found: what is found in it.
      paths: the encoded paths of the leaves of the model's params.
      out: the structure of what it returns.
    """

    found: Found
    paths: tuple[str, ...]
    out: Any


def trace(
    fn: Callable[..., Any], model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Traced, list[Any], list[Any]]:
    """Returns the traced call, the leaves of the model's params, and those of the inputs.

    Every call is traced: what the function reads from outside may have changed since the last one.

    Args:
      fn: the function.
      model: the params, whole; arrays or ShapeDtypeStructs.
      args: the function's other arguments; leaves that are no arrays are not traced.
      kwargs: those given by name.

    Raises:
      CollapseError: a leaf of the params is no array.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(model)
    for keys, leaf in flat:
        if not _is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
            raise CollapseError(
                f"{encode(keys)}: got {type(leaf).__name__} in params, wanted an array. Split "
                "off what is no array: nnx.split, or eqx.partition(model, eqx.is_array)."
            )
    leaves = [leaf if _is_array(leaf) else jnp.asarray(leaf) for _, leaf in flat]
    inputs, inputs_structure = jax.tree.flatten((tuple(args), dict(kwargs)))
    arrays = [leaf for leaf in inputs if _is_array(leaf)]

    # JAX keeps traces by the function that is traced: this one is new in every call.
    def call(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        filled = [next(rest) if _is_array(leaf) else leaf for leaf in inputs]
        args, kwargs = jax.tree.unflatten(inputs_structure, filled)
        return fn(jax.tree.unflatten(structure, list(leaves)), *args, **kwargs)

    try:
        closed, out = jax.make_jaxpr(call, return_shape=True)(leaves, arrays)
    except Exception as error:
        error.add_note(
            "Raised by the function itself, traced by lcjax.collapsible. If it misses params: "
            "are these another model's, or a compact tree without its part `fused`?"
        )
        raise
    paths = tuple(encode(keys) for keys, _ in flat)
    found = find_all(
        open_program(closed, len(leaves)), paths, [site_name(keys) for keys, _ in flat]
    )
    return Traced(found, paths, jax.tree.structure(out)), leaves, arrays


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
