"""The block of a decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.activations import ACTIVATIONS
from lcjax.models.decoder.attention import DecoderAttention
from lcjax.models.decoder.config import DecoderConfig, LayerConstants
from lcjax.models.decoder.context import TextContext
from lcjax.models.decoder.norm import RMSNorm
from lcjax.nn.glu import CollapsibleGLU


class DecoderBlock(nn.Module):
    """Attention, then a gated MLP, `mlp`; each is a residual branch with a norm before it.

    All blocks of a decoder run the same code, compiled once: what differs is an argument.

    Attributes:
      config: of the decoder.
      dtype: dtype of the computation; None takes the common dtype of inputs and params.
      param_dtype: dtype of params at `init`.

    Example:
      >>> from lcjax.models.decoder import text_context
      >>> config = DecoderConfig(100, 8, 2, 4, 2, 4, 16)
      >>> x, context = jnp.ones((1, 3, 8)), text_context(jnp.ones((1, 3), bool))
      >>> params = DecoderBlock(config).init(jax.random.key(0), x, context, config.layers[0])
      >>> DecoderBlock(config).apply(params, x, context, config.layers[1]).shape
      (1, 3, 8)
    """

    config: DecoderConfig
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: TextContext, layer: LayerConstants) -> jax.Array:
        """Returns tokens of the same shape, (batch, tokens, width).

        Args:
          x: tokens (batch, tokens, width).
          context: of the texts, the same for all blocks.
          layer: the block's element of `config.layers`.
        """
        config, dtypes = self.config, (self.dtype, self.param_dtype)
        y = self._norm("norm_1")(x)
        y = DecoderAttention(config, *dtypes, name="attention")(y, context, layer)
        x = x + (self._norm("post_norm_1")(y) if config.post_norms else y)
        y = CollapsibleGLU(
            config.mlp_hidden,
            config.width,
            activation=ACTIVATIONS[config.activation],
            use_bias=config.mlp_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.normal(0.02),
            name="mlp",
        )(self._norm("norm_2")(x))
        return x + (self._norm("post_norm_2")(y) if config.post_norms else y)

    def _norm(self, name: str) -> RMSNorm:
        config = self.config
        return RMSNorm(config.epsilon, config.norm_offset, self.dtype, self.param_dtype, name=name)
