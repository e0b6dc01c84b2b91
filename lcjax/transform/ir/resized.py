"""Elementwise equations, run on arrays of another size than that for which they were traced.

Layouts are left to the caller: where the program moves or spreads axes, nothing is done here.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from lcjax._jaxpr import bind, inner_jaxprs
from lcjax.transform.ir.primitives import ELEMENTWISE, RESHAPES

_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
_CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
# Say where an array of the program's own shape is.
_PLACES = frozenset({"sharding_constraint", "reshard", "mesh_cast"})


class UnsizedError(Exception):
    """An equation that does not run on arrays of another size; its text is the primitive."""


def run_resized(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of an elementwise equation for operands of another size.

    Functions with derivatives of their own keep them.

    Args:
      eqn: the equation.
      operands: arrays whose shapes broadcast.

    Raises:
      UnsizedError: another equation.
    """
    name = eqn.primitive.name
    if name in _CALLS:
        return _run(eqn, operands)
    if name in _CUSTOM:
        return _with_derivative(eqn, _broadcast(operands))
    if name in RESHAPES or name in _PLACES:
        return [operands[0]]
    if name not in ELEMENTWISE:
        raise UnsizedError(name)
    return bind(eqn, _broadcast(operands))


def _broadcast(operands: Sequence[Any]) -> list[Any]:
    shape = jnp.broadcast_shapes(*(np.shape(operand) for operand in operands))
    return [
        operand if np.shape(operand) == shape else jnp.broadcast_to(operand, shape)
        for operand in operands
    ]


def _run(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of the jaxpr in an equation."""
    ((jaxpr, consts), *_) = inner_jaxprs(eqn)
    return _evaluate(jaxpr, consts, operands)


def _evaluate(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    if any(np.size(const) != 1 for const in consts):
        raise UnsizedError("a constant array")
    env = dict(zip(jaxpr.constvars, (jnp.reshape(const, ()) for const in consts), strict=True))
    env |= dict(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        if not isinstance(atom, core.Literal):
            return env[atom]
        aval: Any = atom.aval
        return jnp.asarray(atom.val, aval.dtype)

    for eqn in jaxpr.eqns:
        results = run_resized(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _with_derivative(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of a function with a derivative of its own, which they have too."""
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars]
    if not all(jnp.issubdtype(shape.dtype, jnp.inexact) for shape in shapes):
        return _run(eqn, operands)
    size = np.shape(operands[0])

    def original(*arrays: Any) -> list[Any]:
        return bind(eqn, arrays)

    def whole(closed: Any, arrays: Sequence[Any]) -> list[Any]:
        return [
            jnp.broadcast_to(result, size)
            for result in _evaluate(closed.jaxpr, closed.consts, arrays)
        ]

    def same(*arrays: Any) -> list[Any]:
        return [jnp.broadcast_to(result, size) for result in _run(eqn, arrays)]

    if eqn.primitive.name == "custom_jvp_call":
        forward = jax.custom_jvp(same)

        def jvp(primals: Any, tangents: Any) -> Any:
            closed = jax.make_jaxpr(lambda p, t: jax.jvp(original, tuple(p), tuple(t)))(
                shapes, shapes
            )
            results = whole(closed, [*primals, *tangents])
            half = len(results) // 2
            return results[:half], results[half:]

        forward.defjvp(jvp)
        return forward(*operands)

    def backward(arrays: Any, cotangents: Any) -> Any:
        outs = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.outvars]
        closed = jax.make_jaxpr(lambda p, c: jax.vjp(original, *p)[1](c))(shapes, outs)
        return tuple(whole(closed, [*arrays, *cotangents]))

    recomputed = jax.custom_vjp(same)
    recomputed.defvjp(lambda *arrays: (same(*arrays), arrays), backward)
    return recomputed(*operands)


def scalar_of(array: Any) -> Any:
    """Returns the number that an array has everywhere, as an array of no axes."""
    array = jnp.asarray(array)
    return lax.squeeze(lax.slice(array, (0,) * array.ndim, (1,) * array.ndim), range(array.ndim))
