"""Whether only a site uses its kernels, biases and hidden value, so that it can be fused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lcjax.transform.analysis.dense import DenseOp, origin_of
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.dead_code import Dead
from lcjax.transform.ir.program import Op, Program, Region, Value
from lcjax.transform.matching.match import Match


def why_not_alone(
    match: Match, dead: Dead, folded: Sequence[Value], called: Mapping[Value, str]
) -> Reason | None:
    """Returns why something that fusing removes is still needed elsewhere; None if it is not.

    Args:
      match: the site.
      dead: operations and values that are not needed once it is fused.
      folded: the leaves of biases and norms that fusing folds in.
      called: names of leaves.
    """
    up, down = match.up, match.down
    if up.product not in dead:
        ops = [up.product, up.last, *(step.op for step in match.steps), *match.inside]
        ops += [match.end.maker] if isinstance(match.end.maker, Op) else []
        users = [user for op in ops for value in op.outs for user in value.users]
        own = {*ops, down.product, down.last}
        other = next((user for user in users if user not in dead and user not in own), None)
        return _use(other, Cause.HIDDEN_RETURNED, Cause.HIDDEN_USED)
    if up.leaf is not None and up.leaf is down.leaf:
        parts = _is_part(up) and _is_part(down)
        return Reason(Cause.BOTH_PARTS if parts else Cause.BOTH_SIDES, leaf=called[up.leaf])
    for dense, which in ((up, "before"), (down, "after")):
        leaf = dense.leaf
        if leaf is not None and leaf not in dead:
            other = next(user for user in leaf.users if user not in dead)
            if _is_part(dense) and isinstance(other, Op) and other.name == "slice":
                return Reason(Cause.ONE_LEAF, which=which, leaf=called[leaf])
            reason = _use(other, Cause.KERNEL_RETURNED, Cause.KERNEL_USED)
            return replace(reason, which=which, leaf=called[leaf])
    for leaf in folded:
        if leaf not in dead:
            other = next(user for user in leaf.users if user not in dead)
            reason = _use(other, Cause.FOLDED_RETURNED, Cause.FOLDED_USED)
            return replace(reason, leaf=called[leaf])
    return None


def _is_part(dense: DenseOp) -> bool:
    """Returns whether a kernel is a part of a leaf."""
    return any(op.name == "slice" for op in origin_of(dense.kernel)[1])


def _use(user: Op | Region | Value | Program | None, returned: Cause, used: Cause) -> Reason:
    """Returns the reason that another user of a value gives."""
    if isinstance(user, Program):
        return Reason(returned)
    # A scan carries or returns it, or one of its layers is read there.
    return Reason(used, op=user.name if isinstance(user, Op) else "scan")
