"""The slope mixed in where a site's activation returns."""

import jax
from jax import lax
from jax.core import Tracer

from lcjax.activations import bend
from lcjax.transform.kinds import Kind, Kinds
from lcjax.transform.match import Match
from lcjax.transform.plan import Plan, Read, Replacement
from lcjax.transform.program import Op, Region, Value, ops_in
from lcjax.transform.run import run


def bent(match: Match, slope: Value, kinds: Kinds) -> Replacement:
    """Returns what computes `α z + (1 − α) σ(z)`, or `α v + (1 − α) σ(g) ⊙ v` of a gated unit.

    Where σ is a function of z alone, by `lcjax.activations.bend`, whose backward pass keeps z only.

    Args:
      match: the site.
      slope: the value that holds α.
      kinds: of all values.
    """
    op, start, end = match.end.maker, match.start, match.end
    assert isinstance(op, Op)
    items = None if match.gated else _function(match, kinds)

    def mix(read: Read) -> jax.Array:
        h = read(end)
        z = lax.convert_element_type(read(start), h.dtype)
        return bend(lambda z, h: h, z, read(slope), h)

    if items is None or start.aval.dtype != end.aval.dtype:
        return Replacement(op, (start,), mix, own=True)

    def sigma(z: jax.Array) -> jax.Array:
        env = {start: z}
        run(items, Plan(), env)
        return env[end]

    return Replacement(op, (start,), lambda read: bend(sigma, read(start), read(slope)))


def _function(match: Match, kinds: Kinds) -> list[Op | Region] | None:
    """Returns what runs the activation as a function of its input alone; None if it needs more.

    Calls that belong to it as a whole stay calls, with what derivatives of their own they have.
    """
    needed: list[Op] = []
    seen, todo = {match.start}, [match.end]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        op = value.maker
        if isinstance(value.constant, Tracer):
            return None
        if value.constant is None:
            if not isinstance(op, Op) or kinds[value] in (Kind.PARAM, Kind.RANDOM):
                return None
            needed += [op] if op not in needed else []
            todo += op.ins
    return _whole(set(needed))


def _whole(ops: set[Op]) -> list[Op | Region]:
    """Returns operations in order; calls, where all that they do is among these, as calls."""
    items: dict[Op | Region, None] = {}
    ordered = _in_order(ops)
    for op in ordered:
        item: Op | Region = op
        while item.scope is not None and item.scope.kind != "scan" and _all_in(item.scope, ops):
            item = item.scope
        items.setdefault(item)
    return list(items)


def _all_in(region: Region, ops: set[Op]) -> bool:
    return all(op in ops for op in ops_in(region.body) if any(out.users for out in op.outs))


def _in_order(ops: set[Op]) -> list[Op]:
    """Returns operations such that each comes after those whose results it reads."""
    done: dict[Op, None] = {}
    todo = list(ops)
    while todo:
        op = todo[-1]
        before = [value.maker for value in op.ins if value.maker in ops and value.maker not in done]
        if before:
            todo += [each for each in before if isinstance(each, Op)]
        else:
            done.setdefault(todo.pop())
    return list(done)
