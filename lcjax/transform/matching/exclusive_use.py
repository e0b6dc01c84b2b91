"""Whether a site has its kernels, biases and hidden value to itself, so that it can be fused."""

from collections.abc import Mapping, Sequence

from lcjax.transform.analysis import reasons
from lcjax.transform.analysis.dense import DenseOp, origin_of
from lcjax.transform.ir.dead_code import Dead
from lcjax.transform.ir.program import Op, Program, Region, Value
from lcjax.transform.matching.match import Match


def why_not_alone(
    match: Match, dead: Dead, folded: Sequence[Value], called: Mapping[Value, str]
) -> str | None:
    """Returns what would still be needed once the site is fused, and so forbids it; else None.

    Args:
      match: the site.
      dead: what nothing needs once it is fused.
      folded: the leaves of biases and norms that fusing folds in.
      called: what the leaves are called.
    """
    up, down = match.up, match.down
    if up.product not in dead:
        ops = [up.product, up.last, *(step.op for step in match.steps), *match.inside]
        ops += [match.end.maker] if isinstance(match.end.maker, Op) else []
        users = [user for op in ops for value in op.outs for user in value.users]
        own = {*ops, down.product, down.last}
        other = next((user for user in users if user not in dead and user not in own), None)
        return f"its hidden value is {_use(other)}"
    if up.leaf is not None and up.leaf is down.leaf:
        parts = _is_part(up) and _is_part(down)
        return (reasons.BOTH_PARTS if parts else reasons.BOTH_SIDES).format(leaf=called[up.leaf])
    for dense, which in ((up, "before"), (down, "after")):
        leaf = dense.leaf
        if leaf is not None and leaf not in dead:
            other = next(user for user in leaf.users if user not in dead)
            if _is_part(dense) and isinstance(other, Op) and other.name == "slice":
                return reasons.ONE_LEAF.format(which=which, leaf=called[leaf])
            shared = "tied weights" if not isinstance(other, Program) else "return what changes"
            return f"the kernel {which} it, {called[leaf]}, is {_use(other)} ({shared})"
    for leaf in folded:
        if leaf not in dead:
            other = next(user for user in leaf.users if user not in dead)
            return f"{called[leaf]}, which fusing would fold in, is {_use(other)}"
    return None


def _is_part(dense: DenseOp) -> bool:
    """Tells whether a kernel is cut out of a leaf."""
    return any(op.name == "slice" for op in origin_of(dense.kernel)[1])


def _use(user: Op | Region | Value | Program | None) -> str:
    if isinstance(user, Program):
        return "returned by the function"
    name = user.name if isinstance(user, Op) else "scan"  # carried, returned, or a layer of it
    return f"used elsewhere too, by `{name}`"
