"""Slopes that follow a schedule to exactly 1, independent of their gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lcjax.optim.selection import marks_of
from lcjax.tree.selection import Selected, as_selection
from lcjax.tree.slopes import on_marked
from lcjax.validation.arguments import check_state, require_params


class AnnealState(NamedTuple):
    """State of `anneal_slopes`.

    Attributes:
      count: steps taken; int32 scalar.
      selected: bool scalars where the params have slopes, `optax.MaskedNode` elsewhere.
    """

    count: jax.Array
    selected: Any


def anneal_slopes(
    schedule: optax.Schedule, *, sites: Selected = None
) -> optax.GradientTransformation:
    """Makes selected slopes follow a schedule: after n steps they are `schedule(n)`.

    A selected slope α gets the update `schedule(n) − α` in place of the incoming one; all other
    leaves pass through. The transform must see the final update, so it is the last of a chain:
    `optax.chain(optax.adamw(1e-3), anneal_slopes(optax.linear_schedule(0, 1, 3000)))`, or
    `optax.chain(lcjax.with_linearity_penalty(...), anneal_slopes(...))`, where the penalty moves
    the slopes that are not selected here. Where the schedule is 1, a slope that was in [0, 2] is
    exactly 1 (any other is one step later), so that the collapse that follows is exact.

    Args:
      schedule: slopes by the number of steps taken, such as `optax.linear_schedule(0, 1, steps)`.
      sites: paths, globs or `re.Pattern`s of the sites, or a `SiteSelection`; None
        for all.

    Returns:
      an optax transformation, for `optax.chain`.

    Raises:
      ValueError: from `update` without params; from `init` on a selection that matches no site.
      TypeError: if the schedule cannot be called.

    Example:
      >>> import jax.numpy as jnp, optax, lcjax
      >>> tx = optax.chain(optax.sgd(0.1), lcjax.anneal_slopes(optax.linear_schedule(0, 1, 4)))
      >>> params = {"act_0": {"slope": jnp.zeros(())}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> float(updates["act_0"]["slope"])
      0.25

    References:
      Dror et al. 2021, "Layer Folding", arXiv 2106.09309, make activations linear one by one.
    """
    if not callable(schedule):
        raise TypeError(
            f"schedule is {schedule!r}; expected a function of the number of steps taken, such as "
            "optax.linear_schedule(0, 1, steps)."
        )
    selection = as_selection(sites)

    def init(params):
        return AnnealState(count=jnp.zeros([], jnp.int32), selected=marks_of(params, selection))

    def update(updates, state, params=None):
        require_params("anneal_slopes", params)
        check_state("anneal_slopes", state.selected, params)
        state = state._replace(count=optax.safe_increment(state.count))
        target = schedule(state.count)

        def follow(u, is_selected, p):
            return jnp.where(is_selected, jnp.asarray(target, p.dtype) - p, u).astype(u.dtype)

        return on_marked(follow, updates, state.selected, params), state

    return optax.GradientTransformation(init, update)
