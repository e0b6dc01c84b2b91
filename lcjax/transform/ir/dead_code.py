"""Dead code: what a program no longer needs once some of its operations are replaced."""

from collections.abc import Collection, Iterable

from lcjax.transform.ir.program import Op, Program, Value

Dead = set[Op | Value]


def find_dead_code(
    replaced: Collection[Op], read: Iterable[Value], dropped: Collection[Value] = ()
) -> Dead:
    """Returns the operations and values that are no longer needed.

    A value from outside a scan counts as needed as long as one of its layers is.

    Args:
      replaced: operations that are computed otherwise.
      read: the values that they are computed from now.
      dropped: outputs that are no longer returned.
    """
    needed, removed = set(read), set(replaced)
    dead: Dead = set()
    todo = [*dropped, *(value for op in replaced for value in op.ins)]
    while todo:
        value = todo.pop()
        if value in dead or value in needed or not value.users:
            continue
        returned = value not in dropped
        users = [user for user in value.users if returned or not isinstance(user, Program)]
        if not all(user in dead or user in removed for user in users):
            continue
        dead.add(value)
        if value.layer_of is not None:
            todo.append(value.layer_of)
        op = value.maker
        if isinstance(op, Op) and op not in removed and op not in dead and not op.eqn.effects:
            if all(out in dead or not out.users for out in op.outs):
                dead.add(op)
                todo += op.ins
    return dead
