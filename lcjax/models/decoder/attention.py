"""Grouped-query attention with rotary positions, windows and soft caps."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models.decoder.config import DecoderConfig, LayerConstants
from lcjax.models.decoder.context import TextContext
from lcjax.models.decoder.norm import RMSNorm
from lcjax.models.decoder.rotary import rotate


def attend_in_groups(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """Returns softmax attention (batch, tokens, heads, head width) in value's dtype.

    Consecutive query heads share a key and value head. Logits and softmax are float32 or wider.

    Args:
      query: (batch, tokens, heads, head width).
      key: (batch, slots, key heads, head width); the number of key heads divides that of heads.
      value: as key.
      mask: bool (batch, tokens, slots); False where a token must not attend to a slot.
      scale: factor of the logits.
      softcap: c of `c tanh(logits / c)`; None for no cap.

    Example:
      >>> q, k = jnp.ones((2, 5, 6, 4)), jnp.ones((2, 5, 3, 4))
      >>> attend_in_groups(q, k, k, jnp.ones((2, 5, 5), bool), scale=0.5).shape
      (2, 5, 6, 4)

    References:
      Ainslie et al. 2023, arXiv 2305.13245, section 2.2; Gemma Team 2024, arXiv 2408.00118,
      section 2, for the cap.
    """
    wide = np.promote_types(query.dtype, np.float32)
    groups = (*query.shape[:2], key.shape[2], -1, query.shape[3])
    grouped = (query * jnp.asarray(scale, query.dtype)).reshape(groups)
    logits = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=wide)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(mask[:, None, None], logits, jnp.finfo(wide).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, value)
    return out.reshape(query.shape)


class DecoderAttention(nn.Module):
    """Causal grouped-query self-attention.

    With `key` and `value` (batch, slots, key heads, head width) in the collection "cache", new keys
    and values are written from the context's start on, and tokens attend to all slots.

    Attributes:
      config: of the decoder.
      dtype: dtype of the computation; None takes the common dtype of inputs and params.
      param_dtype: dtype of params at `init`.
    """

    config: DecoderConfig
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: TextContext, layer: LayerConstants) -> jax.Array:
        """Returns tokens of the same shape, (batch, tokens, width)."""
        config = self.config
        query = self._project("query", config.num_heads, x)
        key = self._project("key", config.num_kv_heads, x)
        value = self._project("value", config.num_kv_heads, x)
        if config.qk_norm:
            query, key = self._norm("query_norm")(query), self._norm("key_norm")(key)
        query, key = (rotate(h, context.positions, layer.frequencies) for h in (query, key))
        if context.start is not None:
            key, value = (
                self._cached(name, new, context.start)
                for name, new in (("key", key), ("value", value))
            )
        distance = context.positions[:, :, None] - context.slots[:, None, :]
        y = attend_in_groups(
            query,
            key,
            value,
            context.attends & (distance < layer.window),
            scale=config.query_scale or config.head_width**-0.5,
            softcap=config.attention_softcap,
        )
        return nn.DenseGeneral(
            x.shape[-1],
            (-2, -1),
            use_bias=config.out_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(0.02),
            name="out",
        )(y)

    def _project(self, name: str, heads: int, x: jax.Array) -> jax.Array:
        return nn.DenseGeneral(
            (heads, self.config.head_width),
            use_bias=self.config.qkv_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(0.02),
            name=name,
        )(x)

    def _norm(self, name: str) -> RMSNorm:
        config = self.config
        return RMSNorm(config.epsilon, config.norm_offset, self.dtype, self.param_dtype, name=name)

    def _cached(self, name: str, new: jax.Array, start: jax.Array) -> jax.Array:
        """Writes new keys or values into the cache and returns all of its slots."""
        old = self.get_variable("cache", name)
        slots = jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0, 0))
        self.put_variable("cache", name, slots)
        return slots.astype(new.dtype)
