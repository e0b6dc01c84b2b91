"""Weights of tokens: squared gradients of a program's output by values inside it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.structure.observation import squared_norm
from lcjax.transform.call import run_call
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import plan_execution


class End(NamedTuple):
    """The output of a segment.

    Attributes:
      value: of the program.
      arrange: brings an array of the value's layout to (tokens..., d).
    """

    value: Value
    arrange: Callable[[jax.Array], jax.Array]


def token_weights(
    call: BoundCall, ends: Mapping[str, End], pull: Callable[[Any], Any] | None
) -> dict[str, tuple[jax.Array, ...]]:
    """Returns by key the weights of the tokens at the output of a segment, (tokens...).

    Nothing for each key where there is no pull.

    Args:
      call: with its tree.
      ends: by key.
      pull: returns a cotangent of the call's output; None where tokens weigh alike.

    Raises:
      CollapseError: an output that does not run, since an earlier collapse replaced it.
    """
    if pull is None:
        return dict.fromkeys(ends, ())
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
    return {key: (squared_norm(end.arrange(by_value[end.value])),) for key, end in ends.items()}
