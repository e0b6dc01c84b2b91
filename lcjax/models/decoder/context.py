"""The positions of a text's tokens, and which of them attend to which."""

from typing import NamedTuple

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


def cached_context(
    mask: jax.Array, before: jax.Array, start: jax.Array
) -> tuple[TextContext, jax.Array]:
    """Returns the context of tokens that continue cached texts, and which slots are then real.

    Args:
      mask: bool (batch, tokens); False at padding.
      before: bool (batch, slots); which slots are real.
      start: int32, slot of the first token.
    """
    present = jax.lax.dynamic_update_slice(before, mask, (0, start))
    slots = _positions(present)
    positions = jax.lax.dynamic_slice_in_dim(slots, start, mask.shape[1], axis=1)
    here = start + jnp.arange(mask.shape[1])
    return TextContext(positions, slots, _attends(present, here), start), present


def _positions(real: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)


def _attends(present: jax.Array, here: jax.Array) -> jax.Array:
    causal = jnp.arange(present.shape[1])[None, :] <= here[:, None]
    return causal[None] & present[:, None, :]
