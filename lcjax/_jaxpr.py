"""Jaxprs: evaluation of one equation, its precision, and the jaxprs inside it."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of an equation for these operands."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def inner_jaxprs(eqn: Any) -> list[tuple[Any, Sequence[Any]]]:
    """Returns the jaxprs in an equation's parameters, each with its constants."""
    found = []
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                found.append((part.jaxpr, part.consts))
            elif isinstance(part, core.Jaxpr):
                found.append((part, ()))
    return found


def in_full_precision(eqn: Any) -> Any:
    """Returns an equation whose products, and those of the jaxprs inside it, have full precision.

    By default a GPU multiplies float32 in TF32 and a TPU in bfloat16.
    """
    params = {name: _raised(name, value) for name, value in eqn.params.items()}
    return eqn.replace(params=params)


def _raised(name: str, value: Any) -> Any:
    """Returns a parameter of an equation with full precision wherever it says one."""
    if name == "precision":
        return (jax.lax.Precision.HIGHEST,) * 2
    if isinstance(value, (tuple, list)):
        return type(value)(_raised("", part) for part in value) if _has_jaxprs(value) else value
    if isinstance(value, core.ClosedJaxpr):
        return core.ClosedJaxpr(_raised("", value.jaxpr), value.consts)
    if isinstance(value, core.Jaxpr):
        return value.replace(eqns=[in_full_precision(eqn) for eqn in value.eqns])
    return value


def _has_jaxprs(values: Sequence[Any]) -> bool:
    return any(isinstance(value, (core.ClosedJaxpr, core.Jaxpr)) for value in values)
