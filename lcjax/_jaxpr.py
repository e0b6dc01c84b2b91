"""Jaxprs: evaluation of one equation, and the jaxprs inside it."""

from collections.abc import Sequence
from typing import Any

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
