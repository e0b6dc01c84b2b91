"""Which tokens are routed to which expert, where every expert runs on every token."""

from typing import NamedTuple

from lcjax.transform.analysis.axes import AxisRoles, axes_of, roles_after
from lcjax.transform.analysis.dependence import varying_axes
from lcjax.transform.ir.primitives import RESHAPES, is_passthrough
from lcjax.transform.ir.program import Op, Value


class Routing(NamedTuple):
    """The weights with which outputs of experts are added up.

    Attributes:
      weights: of every token and expert; 0 where the token is not routed to the expert.
      roles: of its axes.
    """

    weights: Value
    roles: AxisRoles


def routing_of(out: Value, roles: AxisRoles) -> Routing | None:
    """Returns the weights of the outputs of experts; None where they are not found.

    Args:
      out: the output of experts, before it is added up.
      roles: of its axes.
    """
    value = out
    while len(value.users) == 1 and isinstance(value.users[0], Op):
        op = value.users[0]
        if op.name == "dot_general":
            return _of_product(op, value, roles)
        if op.name == "mul" and op.ins[0] is not op.ins[1]:
            weights = op.ins[1] if op.ins[0] is value else op.ins[0]
            fixed = varying_axes(weights) & axes_of(roles, "unit")
            same_rank = len(weights.shape) == len(roles)
            return _complete(weights, roles) if same_rank and not fixed else None
        after = roles_after(op, roles) if op.name in RESHAPES or is_passthrough(op) else None
        if after is None:
            return None
        value, roles = op.outs[0], after
    return None


def _of_product(op: Op, value: Value, roles: AxisRoles) -> Routing | None:
    contracted, batch = op.eqn.params["dimension_numbers"]
    side = 0 if op.ins[0] is value else 1
    weights = op.ins[1 - side]
    pairs = [
        *zip(contracted[side], contracted[1 - side], strict=True),
        *zip(batch[side], batch[1 - side], strict=True),
    ]
    found = {int(theirs): roles[int(own)] for own, theirs in pairs}
    return (
        _complete(weights, tuple(found.get(axis) for axis in range(len(weights.shape))))
        if (len(found) == len(weights.shape))
        else None
    )


def _complete(weights: Value, roles: AxisRoles) -> Routing | None:
    """Returns weights that differ by token and by expert."""
    kinds = {role[0] for axis, role in enumerate(roles) if role and weights.shape[axis] > 1}
    return Routing(weights, roles) if {"expert", "token"} <= kinds else None
