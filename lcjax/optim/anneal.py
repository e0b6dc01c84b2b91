"""Slopes that follow a schedule to exactly 1, whatever the gradient says."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lcjax.optim.penalty import need_params
from lcjax.tree.selection import Order
from lcjax.tree.slopes import kept_patterns, on_marked, selected, slope_tree
from lcjax.validation.arguments import check_state


class AnnealState(NamedTuple):
    """State of `anneal_slopes`.

    Attributes:
      count: steps taken; int32 scalar.
      selected: bool scalars where the params have slopes, `optax.MaskedNode` elsewhere.
    """

    count: jax.Array
    selected: Any


def anneal_slopes(
    schedule: optax.Schedule,
    *,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    order: Order | None = None,
) -> optax.GradientTransformation:
    """Makes chosen slopes follow a schedule: after n steps they are `schedule(n)`.

    Whatever update comes in, a chosen slope α gets `schedule(n) − α`; all else passes through. It
    has to see the final update, so it is the last of a chain:
    `optax.chain(optax.adamw(1e-3), anneal_slopes(optax.linear_schedule(0, 1, 3000)))`, or
    `optax.chain(lcjax.with_linearity_penalty(...), anneal_slopes(...))`, where the penalty has the slopes that
    this leaves. Where the schedule says 1, a slope that was in [0, 2] is exactly 1 (any other is
    one step later), so that the collapse that follows is exact.

    Args:
      schedule: slopes by the number of steps taken, such as `optax.linear_schedule(0, 1, steps)`.
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      order: all sites' paths in forward order, as `find_sites(..., apply_fn=)` or `f.sites` has
        them; needed by `last` where names (encoder, decoder) do not decide it.

    Raises:
      ValueError: from `update` without params; from `init` on a selection that names no site.
      TypeError: a schedule that cannot be called.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = optax.chain(optax.sgd(0.1), anneal_slopes(optax.linear_schedule(0, 1, 4)))
      >>> params = {"act_0": {"slope": jnp.zeros(())}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> float(updates["act_0"]["slope"])
      0.25

    References:
      Dror et al. 2021, "Layer Folding", arXiv 2106.09309, let activations become linear one by one.
    """
    if not callable(schedule):
        raise TypeError(
            f"schedule is {schedule!r}, wanted a function of the number of steps taken, such as "
            "optax.linear_schedule(0, 1, steps)."
        )

    sites, order = kept_patterns(sites), kept_patterns(order)

    def init(params):
        chosen = set(selected(params, last, where, sites, order))
        marks = slope_tree(params, lambda site, _: jnp.array(site in chosen), where, sites)
        return AnnealState(
            count=jnp.zeros([], jnp.int32),
            selected=marks,
        )

    def update(updates, state, params=None):
        need_params("anneal_slopes", params)
        check_state("anneal_slopes", state.selected, params)
        state = state._replace(count=optax.safe_increment(state.count))
        wanted = schedule(state.count)

        def follow(u, chosen, p):
            return jnp.where(chosen, jnp.asarray(wanted, p.dtype) - p, u).astype(u.dtype)

        return on_marked(follow, updates, state.selected, params), state

    return optax.GradientTransformation(init, update)
