"""Evaluation of one equation of a jaxpr."""

from collections.abc import Sequence
from typing import Any


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of an equation for these operands."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]
