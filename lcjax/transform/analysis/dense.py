"""The Dense layers of a program: products of data with a kernel that is a leaf of the params."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from lcjax.transform.analysis.axes import AxisRole, AxisRoles, roles_after, varies_by_unit
from lcjax.transform.analysis.dependence import Dependence, Dependences, known_given_params
from lcjax.transform.ir.primitives import is_passthrough
from lcjax.transform.ir.program import Op, Program, Region, Value, ancestors, scans_around


@dataclass(frozen=True, eq=False, repr=False)
class DenseOp:
    """A product of data with a kernel, and the bias after it.

    Attributes:
      product: the operation.
      x: the data it multiplies.
      x_axes: the axes of x that it sums over.
      kernel: the other operand.
      kernel_in: the axes of the kernel that belong to x_axes, in their order.
      kernel_out: the axes of the kernel that are output units; the rest have size 1. In their
        order, but that an axis along which the output is cut comes first, so that each part is a
        range of units.
      leaf: the leaf of the params that the kernel is, or is cut out of; None where it is computed.
      last: the operation that adds the bias; the product itself if there is no bias.
      bias: the summand.
      roles: of the axes of the output; tokens are counted in the order of x's axes.
    """

    product: Op
    x: Value
    x_axes: tuple[int, ...]
    kernel: Value
    kernel_in: tuple[int, ...]
    kernel_out: tuple[int, ...]
    leaf: Value | None
    last: Op
    bias: Value | None
    roles: AxisRoles

    @property
    def out(self) -> Value:
        """The output, bias included."""
        return self.last.outs[0]

    @property
    def d_in(self) -> int:
        """The width of the input."""
        return math.prod(self.kernel.shape[axis] for axis in self.kernel_in)

    @property
    def d_out(self) -> int:
        """The width of the output."""
        return math.prod(self.kernel.shape[axis] for axis in self.kernel_out)


def find_denses(program: Program, dependences: Dependences) -> dict[Value, DenseOp]:
    """Returns the Dense layers of a program by the value that is the bare product."""
    leaves = set(program.leaves)
    found = {}
    for op in program.ops():
        read = {"dot_general": _read_dot, "conv_general_dilated": _read_convolution}.get(op.name)
        parts = read(op, dependences) if read and op.outs[0].users else None
        if parts is not None:
            leaf = _leaf(parts["kernel"], leaves)
            last, bias, roles = _bias(op, parts.pop("roles"), dependences)
            found[op.outs[0]] = DenseOp(
                product=op, leaf=leaf, last=last, bias=bias, roles=roles, **parts
            )
    return found


def root(value: Value) -> tuple[Value, list[Op]]:
    """Returns the value that this one is, or is cut out of, but for dtype and place.

    And what was done to it since, in order.
    """
    ops: list[Op] = []
    while isinstance(value.maker, Op) and (
        is_passthrough(value.maker) or value.maker.name == "slice"
    ):
        ops.insert(0, value.maker)
        value = value.maker.ins[0]
    return value, ops


def origin_of(value: Value) -> tuple[Value, list[Op]]:
    """Returns the value that this one is, or is a part or a layer of, and what was done to it."""
    origin, ops = root(value)
    while origin.layer_of is not None:
        origin, earlier = root(origin.layer_of)
        ops = earlier + ops
    return origin, ops


def _leaf(value: Value, leaves: Collection[Value]) -> Value | None:
    """Returns the leaf of real floats that a value is, or is a part or a layer of."""
    origin, _ = origin_of(value)
    known = origin in leaves and jnp.issubdtype(origin.aval.dtype, jnp.floating)
    return origin if known else None


def layer_scans(value: Value) -> list[Region]:
    """Returns the scans of which a fixed value holds a layer for every step, outermost first."""
    found: set[Region] = set()
    deepest: list[Region] = []
    for each in ancestors(value):
        if isinstance(each.maker, Region) and each.layer_of is not None:
            found.add(each.maker)
            deepest = max(deepest, [*scans_around(each.maker), each.maker], key=len)
    return [scan for scan in deepest if scan in found]


def _read_dot(op: Op, dependences: Dependences) -> dict[str, Any] | None:
    """Returns how a product of data and a fixed kernel is laid out; None for any other."""
    contracted, batch = op.eqn.params["dimension_numbers"]
    side = _data_side(op, dependences)
    if side is None or any(batch) or not contracted[0]:
        return None
    x, kernel = op.ins[side], op.ins[1 - side]
    x_axes, kernel_in = (tuple(map(int, contracted[i])) for i in (side, 1 - side))
    tokens, kernel_out = _others(x, x_axes), _others(kernel, kernel_in)
    roles = [("token", i) for i in range(len(tokens))]
    units = [("unit", j) for j in range(len(kernel_out))]
    first = len(tokens) if side == 0 else 0
    cut = _cut_axis(op.outs[0])
    if cut is not None and first < cut < first + len(units):
        order = [cut - first, *(j for j in range(len(units)) if j != cut - first)]
        units = [("unit", order.index(j)) for j in range(len(units))]
        kernel_out = tuple(kernel_out[j] for j in order)
    return {
        "x": x,
        "x_axes": x_axes,
        "kernel": kernel,
        "kernel_in": kernel_in,
        "kernel_out": kernel_out,
        "roles": tuple([*roles, *units] if side == 0 else [*units, *roles]),
    }


def _read_convolution(op: Op, dependences: Dependences) -> dict[str, Any] | None:
    """Returns the same of a 1×1 convolution with stride 1, which is a product."""
    params = op.eqn.params
    lhs, rhs, out = params["dimension_numbers"]
    if (
        _data_side(op, dependences) != 0
        or params["feature_group_count"] * params["batch_group_count"] > 1
    ):
        return None
    steps = (params["window_strides"], params["lhs_dilation"])
    window = [op.ins[1].shape[axis] for axis in rhs[2:]]
    padding = [amount for pair in params["padding"] for amount in pair]
    if any(size != 1 for size in [*window, *steps[0], *steps[1]]) or any(padding):
        return None
    roles: list[AxisRole] = [None] * len(out)
    tokens = _others(op.ins[0], (lhs[1],))
    for from_axis, to_axis in zip(lhs, out, strict=True):
        is_token = from_axis in tokens
        roles[to_axis] = ("token", tokens.index(from_axis)) if is_token else ("unit", 0)
    return {
        "x": op.ins[0],
        "x_axes": (lhs[1],),
        "kernel": op.ins[1],
        "kernel_in": (rhs[1],),
        "kernel_out": (rhs[0],),
        "roles": tuple(roles),
    }


def _data_side(op: Op, dependences: Dependences) -> int | None:
    """Returns which operand is data, the other being fixed by the params; None otherwise."""
    left, right = (dependences[value] for value in op.ins[:2])
    if left is Dependence.DATA and right is Dependence.PARAM:
        return 0
    return 1 if left is Dependence.PARAM and right is Dependence.DATA else None


def _cut_axis(value: Value) -> int | None:
    """Returns the one axis along which parts of a product, or of its sum with a bias, are cut."""
    axes: set[int] = set()
    seen, todo = {value}, [(value, tuple(range(len(value.shape))))]
    while todo:
        each, order = todo.pop()  # which axis of the product each one is
        for user in each.users:
            if not isinstance(user, Op) or user in seen:
                continue
            seen.add(user)
            if user.name in ("slice", "split"):
                sizes = zip(order, each.shape, user.outs[0].shape, strict=True)
                axes |= {axis for axis, before, after in sizes if before != after}
            elif user.name == "transpose":
                turned = tuple(order[axis] for axis in user.eqn.params["permutation"])
                todo.append((user.outs[0], turned))
            elif (
                len(user.outs) == 1
                and user.outs[0].shape == each.shape
                and (user.name in ("add", "add_any") or is_passthrough(user))
            ):
                todo.append((user.outs[0], order))
    return axes.pop() if len(axes) == 1 else None


def _others(value: Value, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(value.shape)) if axis not in axes)


def _bias(op: Op, roles: AxisRoles, dependences: Dependences) -> tuple[Op, Value | None, AxisRoles]:
    """Returns the addition of a bias that follows a product, the bias, and the labels there."""
    last, moved = op, roles
    while len(last.outs[0].users) == 1 and isinstance(last.outs[0].users[0], Op):
        value, user = last.outs[0], last.outs[0].users[0]
        if user.name == "transpose" and (turned := roles_after(user, moved)):
            last, moved = user, turned
            continue
        if user.name in ("add", "add_any"):
            other = user.ins[1] if user.ins[0] is value else user.ins[0]
            if (
                other is not value
                and known_given_params(dependences[other])
                and varies_by_unit(other, moved)
            ):
                return user, other, moved
        break
    return op, None, roles
