"""The Dense layers of a program: products of data with a kernel that is a leaf of the params."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import jax.numpy as jnp

from lcjax.transform.analysis.axes import AxisRoles, roles_after, varies_by_unit
from lcjax.transform.analysis.dependence import Dependences, known_given_params
from lcjax.transform.analysis.products import read_product
from lcjax.transform.ir.primitives import PRODUCTS, is_passthrough
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
      kernel_experts: the axes along which the kernel is stacked, one layer for every expert.
      x_experts: the axes of x that belong to these; empty where all experts read the same x.
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
    kernel_experts: tuple[int, ...] = ()
    x_experts: tuple[int, ...] = ()

    @property
    def experts(self) -> tuple[int, ...]:
        """The numbers of experts, one for each axis of them."""
        return tuple(self.kernel.shape[axis] for axis in self.kernel_experts)

    @property
    def x_tokens(self) -> tuple[int, ...]:
        """The axes of x that are tokens."""
        used = (*self.x_axes, *self.x_experts)
        return tuple(axis for axis in range(len(self.x.shape)) if axis not in used)

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
        parts = read_product(op, dependences) if op.name in PRODUCTS and op.outs[0].users else None
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
