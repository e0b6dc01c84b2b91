"""A check that an activation is elementwise, which slopes and collapses require."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from lcjax._jaxpr import inner_jaxprs

_ACROSS = frozenset("dot_general conv_general_dilated sort argmax argmin top_k".split())


def check_elementwise(fn: Callable[[jax.Array], Any], z: jax.Array) -> None:
    """Raises if a function mixes the elements of an array of this shape; computes nothing.

    Raises:
      ValueError: if the result has another shape, or elements are summed, sorted or multiplied
        with one another, as in softmax and norms.
    """
    if isinstance(fn, nn.Module) or isinstance(getattr(fn, "__self__", None), nn.Module):
        return  # it makes its own params, and must not be called twice
    name = getattr(fn, "__name__", type(fn).__name__)
    closed, result = jax.make_jaxpr(fn, return_shape=True)(z)
    shape = getattr(result, "shape", None)
    mixing = sorted(set(_mixing(closed.jaxpr)))
    if shape == z.shape and not mixing:
        return
    how = f"uses {', '.join(mixing)}" if mixing else f"returns shape {shape} of {z.shape}"
    raise ValueError(
        f"activation: {name} {how}, so it is not elementwise; expected a function of each element. "
        "Pass one such as nn.relu, and put softmax and norms outside of the activation."
    )


def _mixing(jaxpr: Any) -> Iterator[str]:
    """Yields the names of primitives that mix elements."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _ACROSS or name.startswith(("reduce_", "cum")) and name != "reduce_precision":
            yield name
        for inner, _ in inner_jaxprs(eqn):
            yield from _mixing(inner)
