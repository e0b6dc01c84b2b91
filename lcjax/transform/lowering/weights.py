"""The arrays of a site: its kernels as matrices, its biases and norms as vectors over units."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax._jaxpr import bind, in_full_precision
from lcjax.transform.analysis.axes import AxisRoles
from lcjax.transform.analysis.dense import DenseOp, root
from lcjax.transform.ir.primitives import PASSTHROUGH
from lcjax.transform.ir.program import Op, Region, Value, ancestors

Leaves = Mapping[Value, Any]


def matrix(dense: DenseOp, leaves: Leaves) -> Any:
    """Returns a kernel as a matrix (..., d_in, d_out), in the dtype in which it is stored.

    The leaf itself where it is one already. Leading axes are the layers of scans, then experts.

    Args:
      dense: the layer.
      leaves: arrays or ShapeDtypeStructs.
    """
    used = (*dense.kernel_experts, *dense.kernel_in, *dense.kernel_out)
    rest = [axis for axis in range(len(dense.kernel.shape)) if axis not in used]  # of size 1
    order, shape = [*rest, *used], (*dense.experts, dense.d_in, dense.d_out)

    plain = order == list(range(len(shape)))

    def arrange(array: jax.Array) -> jax.Array:
        return jnp.reshape(jnp.transpose(array, order), shape)

    return _apply_moves(_scan_levels(dense.kernel), leaves, None if plain else arrange)


def vector(
    value: Value, roles: AxisRoles, shape: Sequence[int], leaves: Leaves, scans: Sequence[Region]
) -> Any:
    """Returns a fixed value that is the same for every token as a vector (..., d) over units.

    Args:
      value: has the axes of the result, or none.
      roles: of the axes of the result; the vector has its experts and units in the order of their
        numbers.
      shape: of the result.
      leaves: arrays or ShapeDtypeStructs.
      scans: the scans whose layers the leading axes are, before those of experts.
    """
    known = sorted((role, axis) for axis, role in enumerate(roles) if role and role[0] != "token")
    axes = [axis for _, axis in known]  # "expert" sorts before "unit"
    sizes = tuple(shape[axis] for axis in axes)
    experts = tuple(shape[axis] for role, axis in known if role[0] == "expert")
    widths = (*experts, int(np.prod(sizes[len(experts) :])))

    def arrange(array: jax.Array) -> jax.Array:
        if array.ndim:
            others = tuple(axis for axis in range(array.ndim) if axis not in axes)
            array = jnp.transpose(array, (*others, *axes))[(0,) * len(others)]
        return jnp.reshape(jnp.broadcast_to(array, sizes), widths)

    levels = _scan_levels(value)
    origin = levels[0][0]
    if origin in leaves and len(levels) == len(scans) + 1:
        stack = tuple(scan.eqn.params["length"] for scan in scans)
        moved = any(op.name in ("transpose", "slice") for _, ops in levels for op in ops)
        plain = leaves[origin].shape == (*stack, *widths) and not moved
        return leaves[origin] if plain else _apply_moves(levels, leaves, arrange)
    return _computed(value, leaves, scans, arrange)


def _scan_levels(value: Value) -> list[tuple[Value, list[Op]]]:
    """Returns the origin of a value, and the operations that changed its dtype and layout since.

    One pair for every scan that it is a layer of and one for outside, which comes first.
    """
    origin, ops = root(value)
    levels = [(origin, ops)]
    while origin.layer_of is not None:
        origin, ops = root(origin.layer_of)
        levels.insert(0, (origin, ops))
    return levels


def _apply_moves(
    levels: Sequence[tuple[Value, Sequence[Op]]],
    leaves: Leaves,
    arrange: Callable[[jax.Array], jax.Array] | None,
) -> Any:
    """Returns a leaf with its axes moved as in the program, and arranged, in its own dtype."""
    moves: list[tuple[int, Callable[[jax.Array], jax.Array]]] = []
    for depth, (_, ops) in enumerate(levels):
        for op in ops:
            if op.name not in PASSTHROUGH:
                moves.append((depth, lambda array, op=op: bind(op.eqn, [array])[0]))
    if arrange is not None:
        moves.append((len(levels) - 1, arrange))
    leaf = leaves[levels[0][0]]
    if not moves:
        return leaf

    def view(array: jax.Array) -> jax.Array:
        for depth, move in moves:
            array = _nested_vmap(move, depth)(array)
        return array

    return jax.eval_shape(view, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else view(leaf)


def _nested_vmap(
    fn: Callable[[jax.Array], jax.Array], depth: int
) -> Callable[[jax.Array], jax.Array]:
    return _nested_vmap(jax.vmap(fn), depth - 1) if depth else fn


def _computed(
    value: Value,
    leaves: Leaves,
    scans: Sequence[Region],
    arrange: Callable[[jax.Array], jax.Array],
) -> Any:
    """Returns a value computed from leaves, for every layer of the scans, arranged."""

    def layered(known: Mapping[Value, Any], scans: Sequence[Region]) -> jax.Array:
        if not scans:
            return arrange(jnp.asarray(_evaluate(value, dict(known))))
        scan, *rest = scans
        outside = dict(known)
        layers = [layer for layer, stacked in scan.layers.items() if _is_known(stacked, outside)]
        xs = [_evaluate(scan.layers[layer], outside) for layer in layers]

        def one(xs: Sequence[Any]) -> jax.Array:
            return layered(outside | dict(zip(layers, xs, strict=True)), rest)

        return jax.vmap(one, axis_size=scan.eqn.params["length"])(xs)

    origins = set(ancestors(value))
    needed = [leaf for leaf in leaves if leaf in origins]

    def compute(arrays: Sequence[Any]) -> jax.Array:
        return layered(dict(zip(needed, arrays, strict=True)), scans)

    arrays = [leaves[leaf] for leaf in needed]
    abstract = any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays)
    return jax.eval_shape(compute, arrays) if abstract else compute(arrays)


def _is_known(value: Value, known: Mapping[Value, Any]) -> bool:
    """Returns whether a value can be computed from those that are known."""
    ends = [each for each in ancestors(value) if not isinstance(each.maker, Op)]
    return all(each in known or each.constant is not None for each in ends)


def _evaluate(value: Value, known: dict[Value, Any]) -> Any:
    """Returns a value, and adds it and everything computed for it to the known values.

    Its products have full precision, whatever that of the program is: its result is stored.
    """
    if value.constant is not None:
        return value.constant
    if value not in known:
        op = value.maker
        assert isinstance(op, Op)
        operands = [_evaluate(operand, known) for operand in op.ins]
        results = bind(in_full_precision(op.eqn), operands)
        known.update(zip(op.outs, results, strict=True))
    return known[value]
