"""Weights of tokens: squared gradients of a program's output by values inside it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.structure.observation import squared_norm
from lcjax.transform.call import run_call
from lcjax.transform.ir.program import Op
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import plan_execution
from lcjax.transform.observing.ends import End


def token_weights(
    call: BoundCall, pull: Callable[[Any], Any], ends: Mapping[str, End]
) -> dict[str, jax.Array]:
    """Returns by key the weights of the tokens at the output of a segment, (tokens...).

    Args:
      call: with its tree.
      pull: returns a cotangent of the call's output.
      ends: where the outputs are, by key.

    Raises:
      CollapseError: an output that does not run, since an earlier collapse replaced it.
    """
    dead = plan_execution(call).rewrites.dead
    for key, end in ends.items():
        if not isinstance(end.value.maker, Op) or end.value.maker in dead:
            raise CollapseError(
                f'{key}: weighting="influence" needs its output in the program, but an earlier '
                'collapse of a neighbour replaced it. Calibrate with weighting="equal".'
            )
    values = list(dict.fromkeys(end.value for end in ends.values()))
    zeros = [jnp.zeros(value.shape, value.aval.dtype) for value in values]

    def run(shifts: list[jax.Array]) -> Any:
        return run_call(call, dict(zip(values, shifts, strict=True)))

    output, gradients = jax.vjp(run, zeros)
    (found,) = gradients(pull(output))
    by_value = dict(zip(values, found, strict=True))
    return {key: squared_norm(end.arrange(by_value[end.value])) for key, end in ends.items()}
