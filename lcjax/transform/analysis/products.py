"""How products of data with fixed kernels are laid out: axes summed over, of units, of experts."""

from collections.abc import Sequence
from typing import Any

from lcjax.transform.analysis.axes import AxisRole
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.ir.primitives import is_passthrough
from lcjax.transform.ir.program import Op, Value


def read_product(op: Op, dependences: Dependences) -> dict[str, Any] | None:
    """Returns how a product of data and a fixed kernel is laid out, as the fields of a `DenseOp`.

    None for any other operation.
    """
    if op.name == "dot_general":
        return _read_dot(op, dependences)
    return _read_convolution(op, dependences) if op.name == "conv_general_dilated" else None


def _read_dot(op: Op, dependences: Dependences) -> dict[str, Any] | None:
    contracted, batch = op.eqn.params["dimension_numbers"]
    side = _data_side(op, dependences)
    if side is None or not contracted[0]:
        return None
    x, kernel = op.ins[side], op.ins[1 - side]
    x_axes, kernel_in = (tuple(map(int, contracted[i])) for i in (side, 1 - side))
    x_experts, kernel_experts = (tuple(map(int, batch[i])) for i in (side, 1 - side))
    tokens = _others(x, (*x_axes, *x_experts))
    kernel_out = _others(kernel, (*kernel_in, *kernel_experts))
    experts: list[AxisRole] = [("expert", i) for i in range(len(x_experts))]
    roles = [("token", i) for i in range(len(tokens))]
    units = [("unit", j) for j in range(len(kernel_out))]
    first = len(experts) + (len(tokens) if side == 0 else 0)
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
        "roles": tuple([*experts, *([*roles, *units] if side == 0 else [*units, *roles])]),
        "kernel_experts": kernel_experts,
        "x_experts": x_experts,
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
    seen: set[Op] = set()
    todo = [(value, tuple(range(len(value.shape))))]
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
