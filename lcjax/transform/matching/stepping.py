"""From a value along linear steps, back to what they start from or on to what they lead to."""

from collections.abc import Collection

from lcjax.transform.analysis.affine_ops import Step, data_operands, read_step
from lcjax.transform.analysis.axes import Labels, labels_before, moved_labels
from lcjax.transform.analysis.dense import Dense
from lcjax.transform.analysis.dependence import Kinds
from lcjax.transform.analysis.dropout import without_rescaling
from lcjax.transform.ir.program import Op, Value


def steps_back(
    value: Value, labels: Labels, kinds: Kinds, ends: Collection[Value]
) -> tuple[list[Step], Value, Labels]:
    """Returns the linear steps that lead to a value, in order, and what they start from.

    Args:
      value: where they end.
      labels: of the value.
      kinds: of all values.
      ends: values beyond which nothing is looked for.
    """
    steps: list[Step] = []
    while value not in ends:
        step = _step_back(value, labels, kinds)
        earlier = labels_before(step.op, step.value, labels) if step else None
        if step is None or earlier is None:
            break
        steps.insert(0, step)
        value, labels = step.value, earlier
    return without_rescaling(steps, kinds), value, labels


def _step_back(out: Value, labels: Labels, kinds: Kinds) -> Step | None:
    op = out.maker
    if not isinstance(op, Op):
        return None
    operands = data_operands(op, kinds, labels)
    return read_step(op, operands[0], labels, kinds, out) if len(operands) == 1 else None


def steps_on(up: Dense, inside: Collection[Op], kinds: Kinds) -> tuple[list[Step], Value, Labels]:
    """Returns the linear steps that lead on from a Dense, where they end, and the labels there.

    Args:
      up: the Dense.
      inside: the operations that are looked at.
      kinds: of all values.
    """
    steps: list[Step] = []
    value, labels = up.out, up.labels
    while True:
        step = _step_on(value, labels, inside, kinds)
        if step is None:
            return without_rescaling(steps, kinds), value, labels
        steps.append(step)
        value, labels = step.out, step.labels


def _step_on(value: Value, labels: Labels, inside: Collection[Op], kinds: Kinds) -> Step | None:
    users = [user for user in value.users if isinstance(user, Op) and user in inside]
    if len(users) != 1:
        return None
    (op,) = users
    moved, outs = moved_labels(op, labels), [out for out in op.outs if out.users]
    if moved is None or len(outs) != 1:
        return None
    return read_step(op, value, moved, kinds, outs[0])
