"""Dense layers of fewer units as arrays of the shape in which the function stores them.

With them in its params the function runs unchanged, unless its code depends on the width.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lcjax.algebra.fuse import DenseParams
from lcjax.transform.analysis.dense import DenseOp, origin_of
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.matching.unit_path import UnitPath


def in_own_layout(
    up: DenseOp, path: UnitPath, value: DenseParams, gate: DenseParams | None
) -> dict[Value, Any] | None:
    """Returns kernel and bias of the Dense before a site by the leaf that holds each.

    Gate and value in one kernel stay in one, cut alike: `(2, d, k)` of a leaf `(2, d, h)`,
    `(d, 2 k)` of `(d, 2 h)`, whatever the order of the axes.

    Args:
      up: the Dense before the site.
      path: the operations of the site.
      value: the layer with the units that stay; kernel (d_in, k).
      gate: that of the gate where it is part of the same kernel; else None.

    Returns:
      arrays by leaf; None where a leaf holds more than this layer, or its units have several axes.
    """
    sources = {path.value: value} | ({} if path.gate is None or gate is None else {path.gate: gate})
    nodes = sorted(sources, key=lambda node: path.sources[node].columns[0])
    columns = np.concatenate([path.sources[node].columns for node in nodes])
    if up.leaf is None or not np.array_equal(columns, np.arange(up.d_out)):
        return None
    layers = [sources[node] for node in nodes]
    sizes = _sizes(up, len(layers), value["kernel"].shape[-1])
    axes = (*up.kernel_in, *up.kernel_out)
    if sizes is None or len(axes) != len(up.kernel.shape):
        return None
    d_in = tuple(up.kernel.shape[axis] for axis in up.kernel_in)
    kernel = jnp.concatenate([layer["kernel"] for layer in layers], axis=-1)
    kernel = jnp.transpose(jnp.reshape(kernel, (*d_in, *sizes)), _sorted(axes))
    kernel = _as_leaf(kernel, origin_of(up.kernel)[1])
    found = None if kernel is None else {up.leaf: kernel}
    if found is None or up.bias is None:
        return found
    leaf, ops = _unspread(up.bias)
    whole = tuple(up.kernel.shape[axis] for axis in sorted(up.kernel_out))
    if any("bias" not in layer for layer in layers) or leaf.shape != whole or ops:
        return None
    bias = jnp.concatenate([layer["bias"] for layer in layers], axis=-1)
    return found | {leaf: jnp.transpose(jnp.reshape(bias, sizes), _sorted(up.kernel_out))}


def _sorted(axes: Sequence[int]) -> tuple[int, ...]:
    """Returns the permutation that puts axes with these numbers in order."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i]))


def _sizes(up: DenseOp, parts: int, k: int) -> tuple[int, ...] | None:
    """Returns the sizes of the axes of units, the parts first, with k units in each part."""
    if len(up.kernel_out) == 1:
        return (parts * k,)
    first, *rest = up.kernel_out
    return (parts, k) if len(rest) == 1 and up.kernel.shape[first] == parts else None


def _as_leaf(array: Any, ops: Sequence[Op]) -> Any:
    """Returns an array before these operations; None for operations that cut or reshape."""
    for op in reversed(ops):
        if op.name == "transpose":
            array = jnp.transpose(array, _sorted(op.eqn.params["permutation"]))
        elif op.name not in PASSTHROUGH:
            return None
    return array


def _unspread(value: Value) -> tuple[Value, list[Op]]:
    """Returns the value that one is spread out of, and what else was done to it."""
    others = []
    while isinstance(value.maker, Op) and len(value.maker.ins) == 1:
        if value.maker.name not in PASSTHROUGH | RESHAPES or value.maker.name == "transpose":
            others.append(value.maker)
        value = value.maker.ins[0]
    return value, others
