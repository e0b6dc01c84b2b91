"""Self-attention with an optional key-value cache."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Returns softmax attention, (batch, tokens, heads, width of a head), in value's dtype.

    Computes `jax.nn.dot_product_attention`, but normalises after the weighted sum instead of every
    weight before it. This makes a training step on a CPU faster. Weights and their sums are in
    float32 or wider.

    Args:
      query: (batch, tokens, heads, width of a head).
      key: (batch, slots, heads, width of a head).
      value: as key.
      mask: bool, broadcast to (batch, heads, tokens, slots); False where a token must not attend to
        a slot.

    Example:
      >>> q = k = v = jnp.ones((2, 5, 3, 4))
      >>> attend(q, k, v).shape
      (2, 5, 3, 4)

    References:
      Vaswani et al. 2017, arXiv 1706.03762, equation 1.
    """
    wide = np.promote_types(query.dtype, np.float32)
    scaled = query * query.shape[-1] ** -0.5
    query, key, value = (heads.swapaxes(1, 2) for heads in (scaled, key, value))
    logits = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=wide)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(wide).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    summed = jnp.einsum("bhts,bhsd->bhtd", weights.astype(value.dtype), value)
    out = summed.astype(wide) / weights.sum(-1, keepdims=True)
    return out.astype(value.dtype).swapaxes(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, with softmax in float32 or wider.

    Params are those of `nn.MultiHeadDotProductAttention`. With a "cache" of `key`, `value` and
    `index` in the variables, new keys and values are written from slot `index` on, and the tokens
    attend to all slots that the mask allows.

    Attributes:
      num_heads: number of heads; must divide the width of a token.
      dtype: dtype of the computation; None uses the inputs'.

    References:
      Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
    """

    num_heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns tokens of the same shape, (batch, tokens, width).

        Args:
          x: tokens (batch, tokens, width).
          mask: bool, broadcast to (batch, heads, tokens, tokens or slots of the cache); True where
            a token (third axis) may attend to another (fourth).

        Raises:
          ValueError: num_heads does not divide the width.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"{'/'.join(self.path)}: got {self.num_heads} heads for tokens of width {width}, "
                "which they do not divide; choose num_heads that divides the width."
            )
        init = nn.initializers.xavier_uniform()

        def project(name: str) -> jax.Array:
            heads = (self.num_heads, width // self.num_heads)
            return nn.DenseGeneral(heads, dtype=self.dtype, kernel_init=init, name=name)(x)

        query, key, value = project("query"), project("key"), project("value")
        if self.has_variable("cache", "key"):
            key, value = self._update_cache(key, value)
        y = attend(query, key, value, mask=mask)
        return nn.DenseGeneral(width, (-2, -1), dtype=self.dtype, kernel_init=init, name="out")(y)

    def _update_cache(self, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns all cached keys and values, (batch, slots, heads, width of a head)."""
        index = self.get_variable("cache", "index")
        for name, new in (("key", key), ("value", value)):
            old = self.get_variable("cache", name)
            new = jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, index, 0, 0))
            self.put_variable("cache", name, new)
        self.put_variable("cache", "index", index + jnp.int32(key.shape[1]))
        keys, values = self.get_variable("cache", "key"), self.get_variable("cache", "value")
        return keys.astype(key.dtype), values.astype(value.dtype)
