"""From a value along linear steps, back to what they start from or on to what they lead to."""

from collections.abc import Collection

from lcjax.transform.analysis.affine_ops import AffineOp, data_operands, read_affine_op
from lcjax.transform.analysis.axes import AxisRoles, roles_after, roles_before
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependences
from lcjax.transform.analysis.dropout import without_rescaling
from lcjax.transform.ir.program import Op, Value


def steps_back(
    value: Value, roles: AxisRoles, dependences: Dependences, ends: Collection[Value]
) -> tuple[list[AffineOp], Value, AxisRoles]:
    """Returns the linear steps that lead to a value, in order, and what they start from.

    Args:
      value: where they end.
      roles: of the value.
      dependences: of all values.
      ends: values beyond which nothing is looked for.
    """
    steps: list[AffineOp] = []
    while value not in ends:
        step = _step_back(value, roles, dependences)
        earlier = roles_before(step.op, step.value, roles) if step else None
        if step is None or earlier is None:
            break
        steps.insert(0, step)
        value, roles = step.value, earlier
    return without_rescaling(steps, dependences), value, roles


def _step_back(out: Value, roles: AxisRoles, dependences: Dependences) -> AffineOp | None:
    op = out.maker
    if not isinstance(op, Op):
        return None
    operands = data_operands(op, dependences, roles)
    return read_affine_op(op, operands[0], roles, dependences, out) if len(operands) == 1 else None


def steps_on(
    up: DenseOp, inside: Collection[Op], dependences: Dependences
) -> tuple[list[AffineOp], Value, AxisRoles]:
    """Returns the linear steps that lead on from a Dense, where they end, and the labels there.

    Args:
      up: the Dense.
      inside: the operations that are looked at.
      dependences: of all values.
    """
    steps: list[AffineOp] = []
    value, roles = up.out, up.roles
    while True:
        step = _step_on(value, roles, inside, dependences)
        if step is None:
            return without_rescaling(steps, dependences), value, roles
        steps.append(step)
        value, roles = step.out, step.roles


def _step_on(
    value: Value, roles: AxisRoles, inside: Collection[Op], dependences: Dependences
) -> AffineOp | None:
    users = [user for user in value.users if isinstance(user, Op) and user in inside]
    if len(users) != 1:
        return None
    (op,) = users
    moved, outs = roles_after(op, roles), [out for out in op.outs if out.users]
    if moved is None or len(outs) != 1:
        return None
    return read_affine_op(op, value, moved, dependences, outs[0])
