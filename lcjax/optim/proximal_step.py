"""The proximal step of the penalty on slopes, and its state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lcjax.optim.strength import Penalty
from lcjax.tree.slopes import narrow, on_marked, only_marked


class LinearityState(NamedTuple):
    """State of a penalty transform.

    Attributes:
      count: steps taken; int32 scalar.
      weights: float32 scalars where the params have slopes, `optax.MaskedNode` elsewhere; where a
        site has a slope for each unit, the weight of the site over the number of units.
      slopes: float32 copies of the slopes where some are narrower (bfloat16, float16), so that
        small steps add up; None where all are float32.
    """

    count: jax.Array
    weights: Any
    slopes: Any = None


def shrink(
    penalty: Penalty,
    reach: Any,
    updates: Any,
    state: LinearityState,
    params: Any,
    factors: Any = None,
) -> tuple[Any, LinearityState]:
    """Returns the updates of slopes after the proximal step, and the new state.

    Args:
      penalty: "l1" or "l2".
      reach: η λ.
      updates: of the params.
      state: of the penalty.
      params: that the updates are for.
      factors: a tree like params with whole numbers that multiply reach at slopes; None for 1.
    """
    factors = only_marked(lambda _: 1, state.weights) if factors is None else factors

    def end(w, p, u, factor, copy=None):
        start = wide(p)
        if copy is not None:
            start = jnp.where(_rounded(copy, p) == start, copy, start)
        gap = 1 - (start + u.astype(start.dtype))
        own = reach if factor == 1 else reach * factor
        if penalty == "l1":
            gap = jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - own * w, 0)
        else:
            gap = gap / (1 + 2 * own * w)
        return (1 - gap).astype(start.dtype)

    copies = () if state.slopes is None else (state.slopes,)
    ends = only_marked(end, state.weights, params, updates, factors, *copies)
    updates = on_marked(
        lambda u, end, p: (_rounded(end, p) - wide(p)).astype(u.dtype), updates, ends, params
    )
    state = counted(state)
    return updates, state if state.slopes is None else state._replace(slopes=ends)


def counted(state: LinearityState) -> LinearityState:
    """Returns the state after one more step."""
    return state._replace(count=optax.safe_increment(state.count))


def wide(slope: Any) -> jax.Array:
    """Returns a slope in float32, or in its own dtype where that is wider."""
    return jnp.asarray(slope, jnp.float32) if narrow(slope) else jnp.asarray(slope)


def _rounded(value: jax.Array, like: Any) -> jax.Array:
    """Returns a value rounded to the precision of another; XLA does not remove the rounding."""
    kind = jnp.finfo(jnp.result_type(like))
    return jax.lax.reduce_precision(value, kind.nexp, kind.nmant) if narrow(like) else value
