"""Dropout among linear steps: the mask, and the constant with which it keeps the mean.

At inference neither does anything. Any other constant near a mask is a scale like others.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jax.core import Tracer

from lcjax.transform.analysis.affine_ops import AffineOp, is_scalar
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES
from lcjax.transform.ir.program import Op, Value

_COMPARES = frozenset({"lt", "le", "gt", "ge"})
_CLOSE = 0.02  # constants may be bfloat16


def is_dropout(step: AffineOp, dependences: Dependences) -> bool:
    """Returns whether an operation is dropout: it multiplies by or selects by random numbers."""
    return any(dependences[value] is Dependence.RANDOM for value in step.op.ins)


def without_rescaling(steps: Sequence[AffineOp], dependences: Dependences) -> list[AffineOp]:
    """Returns the operations; the constant that belongs to a dropout mask becomes the identity."""
    found = list(steps)
    for i, step in enumerate(steps):
        if is_dropout(step, dependences):
            place = _rescaling(found, i, dependences)
            if place is not None:
                found[place] = replace(found[place], by=None)
    return found


def _rescaling(steps: Sequence[AffineOp], mask: int, dependences: Dependences) -> int | None:
    """Returns which step has the constant of a mask: the nearest, those before it first.

    One over the share that is kept, where the program says which share that is.
    """
    before = [i for i in reversed(range(mask)) if steps[i].by is not None]
    after = [i for i in range(mask + 1, len(steps)) if steps[i].by is not None]
    share = _share(steps[mask], dependences)
    for i in (before + after) if share is not None else (before[:1] + after[:1]):
        factor = _factor(steps[i], dependences)
        if share is None:
            if factor is not None and not factor < 1:
                return i
        elif factor is not None and min(abs(factor * p - 1) for p in (share, 1 - share)) < _CLOSE:
            return i
    return None


def _factor(step: AffineOp, dependences: Dependences) -> float | None:
    """Returns the constant that an operation multiplies by, NaN if it is traced; else None."""
    if step.by is None or step.op.name not in ("mul", "div") or not is_scalar(step.by, dependences):
        return None
    constant = _known(step.by)
    if constant is None:
        return np.nan
    return constant if step.op.name == "mul" else 1 / constant if constant else None


def _share(mask: AffineOp, dependences: Dependences) -> float | None:
    """Returns with which constant random numbers are compared to make a mask."""
    todo = [value for value in mask.op.ins if dependences[value] is Dependence.RANDOM]
    while todo:
        op = todo.pop().maker
        if not isinstance(op, Op):
            continue
        if op.name in _COMPARES:
            fixed = [_known(value) for value in op.ins if is_scalar(_spread(value), dependences)]
            return fixed[0] if fixed else None
        if op.name in PASSTHROUGH | RESHAPES | {"not"}:
            todo += op.ins
    return None


def _known(value: Value) -> float | None:
    """Returns a constant as a number; None where it is traced or computed."""
    constant = _spread(value).constant
    if constant is None or isinstance(constant, Tracer):
        return None
    return float(np.asarray(constant).reshape(-1)[0])


def _spread(value: Value) -> Value:
    """Returns the constant that a value is spread out of."""
    while isinstance(value.maker, Op) and value.maker.name in PASSTHROUGH | RESHAPES:
        value = value.maker.ins[0]
    return value
