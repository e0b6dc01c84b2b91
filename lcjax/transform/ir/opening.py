"""Opening a jaxpr: from nested calls to a program.

Calls are opened, so that every operation is visible, and recorded as regions, so that code that is
not rewritten still runs as the same call. Gathers that are slices are opened as slices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from lcjax.transform.ir.program import Op, Program, Region, Value, sources
from lcjax.transform.ir.static_slices import as_slice

_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
_REMATS = frozenset({"remat", "remat2", "checkpoint"})


def open_program(
    closed: Any,
    n_leaves: int,
    n_state: int = 0,
    returned: Callable[[list[Value]], list[Value]] = list,
) -> Program:
    """Returns a closed jaxpr as a program.

    Args:
      closed: its first arguments are the leaves of the params, the next those of the state.
      n_leaves: number of leaves of the params.
      n_state: number of leaves of the state.
      returned: of the values that the jaxpr returns, picks those that are outputs.
    """
    given = [Value(var.aval) for var in closed.jaxpr.invars]
    body, outs = _open(closed.jaxpr, _constants(closed), given, None)
    inputs = given[n_leaves:]
    program = Program(given[:n_leaves], inputs, body, returned(outs), inputs[:n_state])
    _list_users(program)
    return program


def _constants(closed: Any) -> list[Value]:
    pairs = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    return [Value(var.aval, constant=constant) for var, constant in pairs]


def _open(
    jaxpr: Any, constants: Sequence[Value], given: Sequence[Value], scope: Region | None
) -> tuple[list[Op | Region], list[Value]]:
    """Returns the body of a jaxpr and the values it returns."""
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    env |= dict(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return env[atom]
        aval: Any = atom.aval
        return Value(aval, constant=np.asarray(atom.val, aval.dtype))

    body: list[Op | Region] = []
    for eqn in jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        sliced = as_slice(eqn, *ins) if eqn.primitive.name == "gather" else None
        if sliced is None:
            item = _open_eqn(eqn, ins, scope)
            items, outs = [item], item.outs
        else:
            items, outs = _open(sliced, (), ins[:1], scope)
        body += items
        env.update(zip(eqn.outvars, outs, strict=True))
    return body, [read(atom) for atom in jaxpr.outvars]


def _open_eqn(eqn: Any, ins: list[Value], scope: Region | None) -> Op | Region:
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS or name in _REMATS:
        region = Region(eqn, scope, "call" if name in _CALLS else "remat", ins)
        jaxpr, constants = _inner(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])
        region.body, region.outs = _open(jaxpr, constants, ins, region)
        return region
    if name == "scan":
        return _open_scan(Region(eqn, scope, "scan", ins))
    if name == "while":
        return _open_while(Region(eqn, scope, "while", ins))
    if name == "cond":
        return _open_cond(Region(eqn, scope, "cond", ins))
    op = Op(eqn, scope, ins)
    op.outs = [Value(var.aval, op) for var in eqn.outvars]
    return op


def _open_scan(region: Region) -> Region:
    jaxpr, constants = _inner(region.eqn.params["jaxpr"])
    # Layers have one axis less inside; the carry has the same shape. The parameters of the equation
    # have the numbers too, but JAX has changed their form.
    pairs = list(zip(jaxpr.invars, region.ins, strict=True))
    layered = [(var, value) for var, value in pairs if len(var.aval.shape) < len(value.shape)]
    results = zip(jaxpr.outvars, region.eqn.outvars, strict=True)
    n_carried = sum(len(inner.aval.shape) == len(out.aval.shape) for inner, out in results)
    first_layer = len(pairs) - len(layered)
    n_shared = first_layer - n_carried
    region.starts = region.ins[n_shared:first_layer]
    region.carried = [Value(var.aval, region) for var in jaxpr.invars[n_shared:first_layer]]
    region.layers = {Value(var.aval, region, layer_of=value): value for var, value in layered}
    given = [*region.ins[:n_shared], *region.carried, *region.layers]
    region.body, region.returned = _open(jaxpr, constants, given, region)
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_while(region: Region) -> Region:
    params = region.eqn.params
    n_test, n_step = params["cond_nconsts"], params["body_nconsts"]
    test, step = region.ins[:n_test], region.ins[n_test : n_test + n_step]
    region.starts = region.ins[n_test + n_step :]
    region.carried = [Value(value.aval, region) for value in region.starts]
    for jaxpr, constants in ((params["body_jaxpr"], step), (params["cond_jaxpr"], test)):
        branch = _open_branch(region, jaxpr, [*constants, *region.carried])
        region.body.append(branch)
        region.returned += branch.outs
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_cond(region: Region) -> Region:
    branches = region.eqn.params["branches"]
    region.body = [_open_branch(region, branch, region.ins[1:]) for branch in branches]
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_branch(scope: Region, closed: Any, given: Sequence[Value]) -> Region:
    branch = Region(scope.eqn, scope, "branch", list(given))
    jaxpr, constants = _inner(closed)
    branch.body, branch.outs = _open(jaxpr, constants, given, branch)
    return branch


def _inner(jaxpr: Any) -> tuple[Any, list[Value]]:
    closed = isinstance(jaxpr, core.ClosedJaxpr)
    return (jaxpr.jaxpr, _constants(jaxpr)) if closed else (jaxpr, [])


def _list_users(program: Program) -> None:
    """Fills in the users of every value, going backwards from outputs and effects."""
    todo: list[Value] = []
    done: set[Any] = set()
    made: dict[Region, Mapping[Value, list[Value]]] = {}

    def use(user: Any, values: Sequence[Value]) -> None:
        for value in values:
            if not value.users or value.users[-1] is not user:
                value.users.append(user)
        todo.extend(values)

    def use_once(op: Op) -> None:
        if op not in done:
            done.add(op)
            use(op, op.ins)

    use(program, program.outs)
    for op in program.ops():
        if op.eqn.effects:
            use_once(op)
    while todo:
        value = todo.pop()
        maker = value.maker
        if isinstance(maker, Op):
            use_once(maker)
        elif maker is not None and value not in done:
            done.add(value)
            made[maker] = made.get(maker) or sources(maker)
            use(maker if value.layer_of is None else value, made[maker][value])
