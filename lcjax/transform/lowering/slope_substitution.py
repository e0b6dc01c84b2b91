"""The substitution that gives a site's activation its slope."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from lcjax._jaxpr import bind
from lcjax.nn.activations import interpolate
from lcjax.transform.analysis.axes import AxisRoles
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.ir.interpreter import run
from lcjax.transform.ir.program import Op, Region, Value, ops_in
from lcjax.transform.ir.rewrites import Read, Rewrites, Substitution
from lcjax.transform.matching.match import Match


def slope_substitution(match: Match, slope: Value, dependences: Dependences) -> Substitution:
    """Returns the substitution by `α z + (1 − α) σ(z)`, or `α v + (1 − α) σ(g) ⊙ v` if gated.

    What scales a gate scales its value too: `c (α v + (1 − α) σ(g) ⊙ v)`.
    Where σ is a function of z alone, by `lcjax.nn.activations.interpolate`, whose backward
    pass keeps z only.

    Args:
      match: the site.
      slope: the value that holds α.
      dependences: of all values.
    """
    op, start, end = match.end.maker, match.start, match.end
    assert isinstance(op, Op)
    scales = [step.by for step in match.on_gate if step.by is not None]
    items = None if match.gated else _function(match, dependences)

    def alpha(read: Read) -> jax.Array:
        return _by_expert(read(slope), match.inner_roles)

    def mix(read: Read) -> jax.Array:
        z, h = read(start), read(end)
        for step in match.on_gate:
            z = lax.convert_element_type(z, step.value.aval.dtype)
            (z,) = bind(step.op.eqn, [z if v is step.value else read(v) for v in step.op.ins])
        return interpolate(lambda z, h: h, lax.convert_element_type(z, h.dtype), alpha(read), h)

    if items is None or start.aval.dtype != end.aval.dtype:
        return Substitution(op, (start, *scales), mix, keep_original=True)

    def sigma(z: jax.Array) -> jax.Array:
        env = {start: z}
        run(items, Rewrites(), env)
        return env[end]

    return Substitution(op, (start,), lambda read: interpolate(sigma, read(start), alpha(read)))


def _by_expert(slope: jax.Array, roles: AxisRoles) -> jax.Array:
    """Returns the slopes of experts, (experts...), along their axes of a value with these roles."""
    if not slope.ndim:
        return slope
    known = [role[1] for role in roles if role and role[0] == "expert"]
    sizes = [slope.shape[role[1]] if role and role[0] == "expert" else 1 for role in roles]
    return jnp.reshape(jnp.transpose(slope, known), sizes)


def _function(match: Match, dependences: Dependences) -> list[Op | Region] | None:
    """Returns the activation as a function of its input alone; None if it needs more.

    Calls that belong to it as a whole stay calls, with what derivatives of their own they have.
    """
    needed: dict[Op, None] = {}
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
            if not isinstance(op, Op) or dependences[value] in (
                Dependence.PARAM,
                Dependence.RANDOM,
            ):
                return None
            needed.setdefault(op)
            todo += op.ins
    return _in_order({op: _whole(op, needed) for op in needed}, match.end.maker)


def _whole(op: Op, ops: Collection[Op]) -> Op | Region:
    """Returns the outermost call around an operation with only these operations; or itself."""
    item: Op | Region = op
    while item.scope is not None and _is_call(item.scope) and _all_in(item.scope, ops):
        item = item.scope
    return item


def _is_call(region: Region) -> bool:
    return region.kind in ("call", "remat")


def _all_in(region: Region, ops: Collection[Op]) -> bool:
    return all(op in ops for op in ops_in(region.body) if any(out.users for out in op.outs))


def _in_order(items: Mapping[Op, Op | Region], last: Any) -> list[Op | Region]:
    """Returns operations and calls in an order in which operands come before their users.

    In the order of their operands: it is the same in every process.

    Args:
      items: by operation, the operation itself or the call that runs it.
      last: the operation that returns the result.
    """
    done: dict[Op | Region, None] = {}
    todo = [items[last]]
    while todo:
        item = todo[-1]
        makers = [value.maker for value in item.ins if isinstance(value.maker, Op)]
        before = [items[op] for op in makers if op in items and items[op] not in done]
        todo += before
        if not before:
            done.setdefault(todo.pop())
    return list(done)
