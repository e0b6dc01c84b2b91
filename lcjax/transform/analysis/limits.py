"""The value of an activation at a large input, computed on scalars."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from lcjax._jaxpr import bind, inner_jaxprs
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES, is_elementwise
from lcjax.transform.ir.program import Op, Value

LARGE = 64.0  # its cube is finite in float16
_MOST = 100
_SAME = (RESHAPES | PASSTHROUGH | {"slice", "split"}) - {"convert_element_type"}  # of equal numbers


class _UnknownError(Exception):
    """A value that is not a function of the one given alone."""


def at_large(end: Value, start: Value, dependences: Dependences) -> float | None:
    """Returns a value where another is 64 everywhere; None if it depends on more.

    Args:
      end: made of the other.
      start: the other.
      dependences: of all values.
    """
    ops = _between(end, start, dependences)
    if ops is None or len(ops) > _MOST:
        return None
    try:
        with jax.ensure_compile_time_eval():
            known: dict[Value, Any] = {start: jnp.asarray(LARGE, start.aval.dtype)}
            for op in ops:
                operands = [_read(value, known) for value in op.ins]
                result = _apply(op.eqn, operands)
                known.update({out: result for out in op.outs})
            return float(known[end])
    except _UnknownError:
        return None


def _between(end: Value, start: Value, dependences: Dependences) -> list[Op] | None:
    """Returns the operations between two values, in order; None where others enter."""
    done: dict[Op, None] = {}
    todo = [end]
    while todo:
        op = todo[-1].maker
        if todo[-1] is start or todo[-1].constant is not None:
            todo.pop()
            continue
        if not isinstance(op, Op) or dependences[todo[-1]] in (Dependence.PARAM, Dependence.RANDOM):
            return None
        if op in done:
            todo.pop()
            continue
        if op.name not in _SAME and not is_elementwise(op):
            return None
        before = [v for v in op.ins if v is not start and v.constant is None]
        before = [v for v in before if v.maker not in done]
        todo += before
        if not before:
            done.setdefault(op)
    return list(done)


def _read(value: Value, known: Mapping[Value, Any]) -> Any:
    return known[value] if value in known else _scalar(value.constant)


def _scalar(array: Any) -> Any:
    if isinstance(array, Tracer) or np.size(array) != 1:
        raise _UnknownError
    return jnp.reshape(jnp.asarray(array), ())


def _apply(eqn: Any, operands: Sequence[Any]) -> Any:
    """Returns the one result of an equation, all values being scalars."""
    if eqn.primitive.name in _SAME:
        return operands[0]
    if len(eqn.outvars) != 1:
        raise _UnknownError
    inner = inner_jaxprs(eqn)
    if not inner:
        return bind(eqn, operands)[0]
    jaxpr, consts = inner[0]
    known = dict(zip(jaxpr.constvars, map(_scalar, consts), strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return _scalar(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for each in jaxpr.eqns:
        known |= dict.fromkeys(each.outvars, _apply(each, [read(atom) for atom in each.invars]))
    return read(jaxpr.outvars[0])
