"""The interpreter: runs a program on arrays, with rewrites."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lcjax._jaxpr import bind
from lcjax.transform.ir.program import Op, Program, Region, Value, branches_of
from lcjax.transform.ir.rewrites import Rewrites

Env = dict[Value, Any]


def run_program(program: Program, rewrites: Rewrites, env: Env) -> list[Any]:
    """Returns the outputs of a program.

    Args:
      program: the program.
      rewrites: how to run it.
      env: the leaves and inputs that are needed, and whatever else the substitutions read.
    """
    env = dict(env)
    run(program.body, rewrites, env)
    return [env[v] if v in env else jnp.asarray(v.constant) for v in program.outs]


def read(env: Env, value: Value) -> Any:
    """Returns the array of a value."""
    return env[value] if value in env else value.constant


def run(body: Sequence[Op | Region], rewrites: Rewrites, env: Env) -> None:
    """Runs operations and regions in order and adds their results to env."""
    for item in body:
        if isinstance(item, Op):
            _run_op(item, rewrites, env)
        elif _runs_whole(item, rewrites, env):
            operands = [read(env, value) for value in item.ins]
            env.update(zip(item.outs, bind(item.eqn, operands), strict=True))
        elif item.kind == "scan":
            _run_scan(item, rewrites, env)
        elif item.kind == "while":
            _run_while(item, rewrites, env)
        elif item.kind == "cond":
            _run_cond(item, rewrites, env)
        elif item.kind == "remat" and not rewrites.flat:
            _run_remat(item, rewrites, env)
        else:
            run(item.body, rewrites, env)


def _runs_whole(region: Region, rewrites: Rewrites, env: Env) -> bool:
    calls = region.kind in ("call", "remat")
    opened = region in rewrites.touched or (rewrites.flat and calls)
    return not opened and all(v in env or v.constant is not None for v in region.ins)


def _run_op(op: Op, rewrites: Rewrites, env: Env) -> None:
    substitution = rewrites.replaced.get(op)
    used = op.eqn.effects or any(out.users for out in op.outs)
    if op in rewrites.dead or not used:
        return
    if substitution is None or substitution.keep_original:
        results = bind(op.eqn, [read(env, value) for value in op.ins])
        env.update(zip(op.outs, results, strict=True))
    if substitution is not None:
        env[op.outs[0]] = substitution.compute(lambda value: read(env, value))
    for value in op.outs:
        if value in rewrites.shifts:
            env[value] = env[value] + rewrites.shifts[value]


def _run_remat(region: Region, rewrites: Rewrites, env: Env) -> None:
    params = region.eqn.params
    ins = [value for value in dict.fromkeys(region.ins) if value in env]
    outs = [value for value in dict.fromkeys(region.outs) if rewrites.is_live(value)]
    outs = [value for value in outs if value not in env]  # others are operands, returned unchanged
    shown = [value for value in dict.fromkeys(rewrites.shown.get(region, [])) if value not in outs]
    outs += [value for value in shown if value not in env]

    def inside(arrays: list[Any]) -> list[Any]:
        inner = env | dict(zip(ins, arrays, strict=True))
        run(region.body, rewrites, inner)
        return [read(inner, value) for value in outs]

    again = jax.checkpoint(inside, prevent_cse=params["prevent_cse"], policy=params["policy"])
    env.update(zip(outs, again([env[value] for value in ins]), strict=True))


def _run_scan(region: Region, rewrites: Rewrites, env: Env) -> None:
    params, n_carried = region.eqn.params, len(region.carried)
    layers = [pair for pair in region.layers.items() if rewrites.is_live(pair[0])]
    layers += rewrites.layers.get(region, [])
    kept = [i for i, out in enumerate(region.outs) if i < n_carried or rewrites.is_live(out)]

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        inner = env | dict(zip(region.carried, carry, strict=True))
        inner |= {value: x for (value, _), x in zip(layers, xs, strict=True)}
        run(region.body, rewrites, inner)
        returned = [read(inner, region.returned[i]) for i in kept]
        return returned[:n_carried], returned[n_carried:]

    start = [read(env, value) for value in region.starts]
    xs = [read(env, outer) for _, outer in layers]
    last, stacked = jax.lax.scan(
        step,
        start,
        xs,
        length=None if xs else params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    for i, array in zip(kept, [*last, *stacked], strict=True):
        env[region.outs[i]] = array


def _run_while(region: Region, rewrites: Rewrites, env: Env) -> None:
    step, test = branches_of(region)

    def inside(branch: Region, carry: list[Any]) -> list[Any]:
        inner = env | dict(zip(region.carried, carry, strict=True))
        run(branch.body, rewrites, inner)
        return [read(inner, value) for value in branch.outs]

    last = jax.lax.while_loop(
        lambda carry: inside(test, carry)[0],
        lambda carry: inside(step, carry),
        [read(env, value) for value in region.starts],
    )
    env.update(zip(region.outs, last, strict=True))


def _run_cond(region: Region, rewrites: Rewrites, env: Env) -> None:
    kept = [i for i, out in enumerate(region.outs) if rewrites.is_live(out)]

    def inside(branch: Region) -> list[Any]:
        inner = dict(env)
        run(branch.body, rewrites, inner)
        return [jnp.asarray(read(inner, branch.outs[i])) for i in kept]

    index = read(env, region.ins[0])
    results = jax.lax.switch(index, [partial(inside, each) for each in branches_of(region)])
    env.update(zip((region.outs[i] for i in kept), results, strict=True))
