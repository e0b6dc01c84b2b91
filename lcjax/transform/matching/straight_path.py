"""The straight path of a site: operations next to an activation that do not belong to it.

At slope 1 the activation is the identity, and these operations still apply.
"""

from collections.abc import Sequence

from lcjax.transform.analysis.affine_ops import (
    AFFINE,
    AffineOp,
    in_activation,
    is_linear,
    is_scalar,
)
from lcjax.transform.analysis.axes import AxisRoles, fixed_axes
from lcjax.transform.analysis.dependence import (
    Dependence,
    Dependences,
    data_in,
    known_given_params,
    varying_axes,
)
from lcjax.transform.analysis.limits import LARGE, at_large
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.program import Op, Value, ancestors

_NEAR = 0.02


def unfolded(
    inside: Sequence[Op], start: Value, end: Value, roles: AxisRoles, dependences: Dependences
) -> Reason | None:
    """Returns why operations in an activation do not vanish with it; None if they do.

    Args:
      inside: its operations.
      start: its input.
      end: its output.
      roles: of both.
      dependences: of all values.
    """
    for op in inside:
        if differs_by_token(op, roles, dependences):
            return Reason(Cause.BY_TOKEN, op=op.name)
    first = [op for op in inside if start in op.ins]
    edges = [op for op in first if len(first) == 1] + [op for op in inside if end in op.outs]
    for op in edges:
        noise = any(dependences[value] is Dependence.RANDOM for value in op.ins)
        if is_linear(op, dependences) and not noise and not in_activation(op, dependences):
            return Reason(Cause.UNFOLDED, op=op.name)
    return None


def differs_by_token(op: Op, roles: AxisRoles, dependences: Dependences) -> bool:
    """Returns whether a fixed operand varies along an axis that is not one of units."""
    units = fixed_axes(roles)
    fixed = [value for value in op.ins if known_given_params(dependences[value])]
    return any(
        len(value.shape) == len(roles) and not varying_axes(value) <= units for value in fixed
    )


def normalised(
    step: AffineOp, start: Value, dependences: Dependences, *, gate: bool = False
) -> bool:
    """Returns whether a constant belongs to an activation that is written out.

    The half of `z (1 + erf(z / √2)) / 2`, without which it would be no GELU: with it, the
    activation of a large z is z, or 1 of a gate.

    Args:
      step: the multiplication by the constant, which comes last.
      start: the input of the activation.
      dependences: of all values.
      gate: whether it is the activation of a gate, whose limit may be 1.
    """
    op = step.value.maker
    if (
        step.by is None
        or step.shifts
        or not is_scalar(step.by, dependences)
        or not isinstance(op, Op)
    ):
        return False
    data = data_in(op.ins, dependences)
    if not gate and (op.name not in AFFINE or len(data) < 2):
        return False
    value, bare = at_large(step.out, start, dependences), at_large(step.value, start, dependences)
    if value is None or bare is None:
        return False
    natural = (LARGE, 1.0) if gate else (LARGE,)
    return any(abs(value - limit) < _NEAR * limit < abs(bare - limit) for limit in natural)


def halted(steps: Sequence[AffineOp], inside: Sequence[Op], start: Value, end: Value) -> bool:
    """Returns whether no gradient passes through a site: every path has a `stop_gradient`.

    Args:
      steps: its affine operations.
      inside: the operations of its activation; empty for a gated unit.
      start: the input of the activation.
      end: its output.
    """
    if any(step.op.name == "stop_gradient" for step in steps):
        return True

    def before(value: Value) -> Sequence[Value]:
        op = value.maker
        return op.ins if isinstance(op, Op) and op.name != "stop_gradient" else ()

    return bool(inside) and start not in ancestors(end, before)
