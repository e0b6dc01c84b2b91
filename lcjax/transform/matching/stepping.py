"""Paths of affine operations, followed back from a value or on from a Dense."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from lcjax.transform.analysis.affine_ops import AffineOp, data_operands, read_affine_op
from lcjax.transform.analysis.axes import AxisRoles, roles_after, roles_before
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependences
from lcjax.transform.analysis.dropout import without_rescaling
from lcjax.transform.ir.program import Op, Value


class AffinePath(NamedTuple):
    """Affine operations one after another.

    Attributes:
      ops: in the order in which they run.
      end: where following them ended: the first input, or the last output.
      roles: of the axes of that value.
    """

    ops: list[AffineOp]
    end: Value
    roles: AxisRoles


def affine_ops_before(
    value: Value, roles: AxisRoles, dependences: Dependences, stops: Collection[Value]
) -> AffinePath:
    """Returns the affine operations that lead to a value.

    Args:
      value: their output.
      roles: of its axes.
      dependences: of all values.
      stops: values that are not followed further.
    """

    def previous(value: Value, roles: AxisRoles) -> tuple[AffineOp, Value, AxisRoles] | None:
        op = value.maker
        if value in stops or not isinstance(op, Op):
            return None
        operands = data_operands(op, dependences, roles)
        if len(operands) != 1:
            return None
        step = read_affine_op(op, operands[0], roles, dependences, value)
        earlier = roles_before(op, operands[0], roles) if step else None
        return None if step is None or earlier is None else (step, operands[0], earlier)

    ops, end, roles = _follow(value, roles, previous)
    return AffinePath(without_rescaling(ops[::-1], dependences), end, roles)


def affine_ops_after(up: DenseOp, inside: Collection[Op], dependences: Dependences) -> AffinePath:
    """Returns the affine operations that follow a Dense.

    Args:
      up: the Dense.
      inside: the operations that may be among them.
      dependences: of all values.
    """

    def following(value: Value, roles: AxisRoles) -> tuple[AffineOp, Value, AxisRoles] | None:
        users = [user for user in value.users if isinstance(user, Op) and user in inside]
        if len(users) != 1:
            return None
        (op,) = users
        later, outs = roles_after(op, roles), [out for out in op.outs if out.users]
        if later is None or len(outs) != 1:
            return None
        step = read_affine_op(op, value, later, dependences, outs[0])
        return None if step is None else (step, outs[0], later)

    ops, end, roles = _follow(up.out, up.roles, following)
    return AffinePath(without_rescaling(ops, dependences), end, roles)


def _follow(
    value: Value,
    roles: AxisRoles,
    step: Callable[[Value, AxisRoles], tuple[AffineOp, Value, AxisRoles] | None],
) -> tuple[list[AffineOp], Value, AxisRoles]:
    """Returns the operations that are found step by step, and where that ends."""
    ops: list[AffineOp] = []
    while (found := step(value, roles)) is not None:
        op, value, roles = found
        ops.append(op)
    return ops, value, roles
