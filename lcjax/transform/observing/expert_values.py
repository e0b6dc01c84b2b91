"""The values of experts one by one, with the tokens that are routed to each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.structure.segment import expert_name
from lcjax.transform.ir.program import Value
from lcjax.transform.lowering.site_chains import (
    SiteChain,
    dense_input,
    input_tokens,
    tokens_first,
    with_tokens,
)
from lcjax.transform.matching.routing import routing_of

Pair = tuple[Any, ...]


def by_expert(
    key: str, pair: Pair, chain: SiteChain, read: Callable[[Value], jax.Array | None]
) -> dict[str, list[Pair]]:
    """Returns the pairs (x, t, which tokens count) of every expert, or the one pair without any.

    Where a pair has weights of its tokens, they are in the third place, 0 for what does not count.

    Of experts that read slots of their own, those of zeros do not count: they are padding; False
    says that tokens are not in rows. Of those that all read every token, tokens count whose output
    has a weight other than 0.

    Args:
      key: of the pair.
      pair: x (experts..., tokens..., d_in), or (tokens..., d_in) where all read the same, and t
        (experts..., tokens..., d_out); and weights, of the leading axes of t, or nothing.
      chain: what runs between the two.
      read: returns the array of a value; None where it was not computed.
    """
    experts = chain.first.experts
    if not experts:
        return {key: [pair]}
    x, t, *weights = pair
    if x.ndim < t.ndim:
        x = jnp.broadcast_to(x, (*experts, *x.shape))
    counts = _counts(chain, read)
    counts = jnp.ones(t.shape[:-1], bool) if counts is None else counts
    if weights:
        counts = jnp.where(counts, weights[0], 0)
    slots = (False,) if chain.first.x_experts else ()
    return {
        expert_name(key, index): [(x[index], t[index], counts[index], *slots)]
        for index in np.ndindex(experts)
    }


def _counts(chain: SiteChain, read: Callable[[Value], jax.Array | None]) -> jax.Array | None:
    """Returns which tokens of which experts count, (experts..., tokens...); None for all."""
    first, leading = chain.first, input_tokens(chain)
    if first.x_experts:
        x = read(first.x)
        return None if x is None else jnp.any(dense_input(first, x) != 0, axis=-1)
    roles = with_tokens(chain.last.roles, chain.output_tokens)
    routing = routing_of(chain.last.out, roles)
    weights = None if routing is None else read(routing.weights)
    if routing is None or weights is None:
        return None
    sizes = dict(zip(roles, chain.last.out.shape, strict=True))
    shape = [1 if role and role[0] == "unit" else sizes.get(role, 1) for role in routing.roles]
    routed = jnp.broadcast_to((weights != 0)[_units_at_0(routing.roles)], shape)
    return tokens_first(routed, routing.roles, leading)[..., 0]


def _units_at_0(roles: tuple) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if role and role[0] == "unit" else slice(None) for role in roles)
