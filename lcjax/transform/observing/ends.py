"""Where values of segments are in a program, and how they become (tokens..., d)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax

from lcjax.transform.ir.program import Value
from lcjax.transform.lowering.joints import joint_units, select_units
from lcjax.transform.lowering.site_chains import SiteChain, input_tokens, tokens_first, with_tokens
from lcjax.transform.matching.find_sites import MatchedSite


class End(NamedTuple):
    """The output of a segment.

    Attributes:
      value: of the program.
      arrange: brings an array of the value's layout to (tokens..., d).
    """

    value: Value
    arrange: Callable[[jax.Array], jax.Array]


# Returns the weights of tokens at outputs of segments, (tokens...), by key.
Weigh = Callable[[Mapping[str, End]], Mapping[str, jax.Array]]


def chain_output(chain: SiteChain, value: jax.Array) -> jax.Array:
    """Returns a value in the layout of a chain's output as (tokens..., d_out)."""
    roles = with_tokens(chain.last.roles, chain.output_tokens)
    return tokens_first(value, roles, input_tokens(chain))


def inside(site: MatchedSite, value: jax.Array) -> jax.Array:
    """Returns a value between the layers of a site as (tokens..., units of the Dense after)."""
    match = site.match
    _, units = joint_units(match)
    return select_units(
        tokens_first(value, match.inner_roles, input_tokens(SiteChain((site,)))), units
    )


def activation_end(site: MatchedSite) -> End:
    """Returns where the output of an activation is in the program."""
    return End(site.match.end, partial(inside, site))
