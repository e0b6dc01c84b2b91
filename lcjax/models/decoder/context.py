"""The positions of a text's tokens, and which of them attend to which."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class TextContext(NamedTuple):
    """What every block of a decoder reads of the texts, apart from the tokens' features.

    A slot is a token of the text, or a place of the key-value cache.

    Attributes:
      positions: position of each token, int32 (batch, tokens); padding does not count.
      slots: position of each slot's token, int32 (batch, slots).
      attends: whether a token may attend to a slot, bool (batch, tokens, slots), windows left out.
      start: first slot of the tokens in the cache, int32; None without a cache.
    """

    positions: jax.Array
    slots: jax.Array
    attends: jax.Array
    start: jax.Array | None = None


def text_context(mask: jax.Array) -> TextContext:
    """Returns the context of whole texts, without a cache.

    Args:
      mask: bool or 0 and 1, (batch, tokens); False at padding, before or after the text.

    Example:
      >>> text_context(jnp.array([[0, 1, 1]])).positions.tolist()
      [[0, 0, 1]]
    """
    real = mask.astype(bool)
    positions = _positions(real)
    here = jnp.arange(mask.shape[1])
    return TextContext(positions, positions, _attends(real, here))


def read_context(module: nn.Module, mask: jax.Array) -> tuple[TextContext, jax.Array | None]:
    """Returns the context of tokens that continue the texts in a module's cache, if it has one.

    Also whether the cache overflows, bool; None without a cache. The cache has which slots are
    `real`, bool (batch, slots), and the `index` of the next, int32; both are brought up to date.

    Args:
      module: of the whole model.
      mask: bool (batch, tokens); False at padding.
    """
    if not module.has_variable("cache", "real"):
        return text_context(mask), None
    start, before = (module.get_variable("cache", name) for name in ("index", "real"))
    present = jax.lax.dynamic_update_slice(before, mask, (0, start))
    end = start + jnp.int32(mask.shape[1])
    module.put_variable("cache", "real", present)
    module.put_variable("cache", "index", end)
    positions = _positions(mask, before.sum(1, keepdims=True, dtype=jnp.int32))
    attends = _attends(present, start + jnp.arange(mask.shape[1]))
    return TextContext(positions, _positions(present), attends, start), end > before.shape[1]


def _positions(real: jax.Array, before: jax.Array | int = 0) -> jax.Array:
    return jnp.maximum(before + jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)


def _attends(present: jax.Array, here: jax.Array) -> jax.Array:
    causal = jnp.arange(present.shape[1])[None, :] <= here[:, None]
    return causal[None] & present[:, None, :]
