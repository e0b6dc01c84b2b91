"""Self-attention, which remembers keys and values where the variables hold a cache for them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Returns softmax attention, (batch, tokens, heads, width of a head), in value's dtype.

    The same as `jax.nn.dot_product_attention`, but that what a token sees is divided once it is
    summed, not every weight before. On a CPU a step of training takes less for it
    (`benchmarks/step_costs.py`). Weights and their sums are in float32 or wider.

    Args:
      query: (batch, tokens, heads, width of a head).
      key: (batch, slots, heads, width of a head).
      value: as key.
      mask: bool, broadcast to (batch, heads, tokens, slots); False where a slot is not looked at.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
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
    """Multi-head self-attention; computed in the inputs' dtype, normalised in float32.

    Params are those of `nn.MultiHeadDotProductAttention`. Where the variables hold a "cache" with
    `key`, `value` and `index`, new keys and values are written there from slot `index` on, and
    the tokens look at all slots, as far as the mask lets them.

    Attributes:
      num_heads: divides the width of a token.
      dtype: of the computation.
    """

    num_heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns tokens (batch, tokens, width), as they came.

        Args:
          x: tokens (batch, tokens, width).
          mask: bool, broadcast to (batch, heads, tokens, tokens or slots of the cache); True where
            a token (third axis) may look at another (fourth).

        Raises:
          ValueError: when the heads do not divide the width.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"{'/'.join(self.path)}: tokens are {width} wide, which {self.num_heads} heads "
                "do not divide. Choose num_heads that divides the width."
            )
        init = nn.initializers.xavier_uniform()

        def project(name: str) -> jax.Array:
            heads = (self.num_heads, width // self.num_heads)
            return nn.DenseGeneral(heads, dtype=self.dtype, kernel_init=init, name=name)(x)

        query, key, value = project("query"), project("key"), project("value")
        if self.has_variable("cache", "key"):
            key, value = self._remember(key, value)
        y = attend(query, key, value, mask=mask)
        return nn.DenseGeneral(width, (-2, -1), dtype=self.dtype, kernel_init=init, name="out")(y)

    def _remember(self, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Writes to the cache; returns all it holds, (batch, slots, heads, width of a head)."""
        index = self.get_variable("cache", "index")
        for name, new in (("key", key), ("value", value)):
            old = self.get_variable("cache", name)
            new = jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, index, 0, 0))
            self.put_variable("cache", name, new)
        self.put_variable("cache", "index", index + jnp.int32(key.shape[1]))
        held = self.get_variable("cache", "key"), self.get_variable("cache", "value")
        return held[0].astype(key.dtype), held[1].astype(value.dtype)
