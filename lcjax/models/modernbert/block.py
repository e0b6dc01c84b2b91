"""The block of ModernBERT."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax.models.decoder.attention import attend_in_groups
from lcjax.models.decoder.rotary import rotate
from lcjax.nn.glu import CollapsibleGLU

Frequencies = jax.Array | np.ndarray


class ModernBERTBlock(nn.Module):
    """Bidirectional attention, then a gated MLP; each is a residual branch with a norm before it.

    Attributes:
      num_heads: number of attention heads; must divide the width of a token.
      mlp_hidden: hidden width of the MLP.
      first: whether attention has no norm before it, as that of the embeddings is just before.
      activation: elementwise, of the gate.
      epsilon: epsilon of the layer norms.
      norm_bias: whether layer norms have a bias.
      attention_bias: whether the projections of attention have one.
      mlp_bias: whether the projections of the MLP have one.
      dtype: dtype of the computation.
    """

    num_heads: int
    mlp_hidden: int
    first: bool
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, positions: jax.Array, frequencies: Frequencies
    ) -> jax.Array:
        """Returns tokens of the same shape, (batch, tokens, width).

        Args:
          x: tokens (batch, tokens, width).
          mask: bool (batch, tokens, tokens); True where a token (second axis) may attend to another
            (third).
          positions: of the tokens, integers (batch, tokens).
          frequencies: of the rotary embedding, radians per token (head width / 2,).
        """
        y = x if self.first else self._norm("norm_1")(x)
        x = x + ModernBERTAttention(
            self.num_heads, self.attention_bias, self.dtype, name="attention"
        )(y, mask, positions, frequencies)
        mlp = CollapsibleGLU(
            self.mlp_hidden,
            x.shape[-1],
            activation=self.activation,
            use_bias=self.mlp_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.truncated_normal(0.02),
            name="mlp",
        )
        return x + mlp(self._norm("norm_2")(x))

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(
            epsilon=self.epsilon, use_bias=self.norm_bias, dtype=self.dtype, name=name
        )


class ModernBERTAttention(nn.Module):
    """Multi-head self-attention with rotary positions.

    Attributes:
      num_heads: number of heads; must divide the width of a token.
      use_bias: whether the four projections have a bias.
      dtype: dtype of the computation.
    """

    num_heads: int
    use_bias: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, positions: jax.Array, frequencies: Frequencies
    ) -> jax.Array:
        """Returns tokens of the same shape; arguments as of `ModernBERTBlock`."""
        width = x.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        shared: dict[str, Any] = dict(
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.truncated_normal(0.02),
        )
        query, key, value = (
            nn.DenseGeneral(heads, name=name, **shared)(x) for name in ("query", "key", "value")
        )
        query, key = (rotate(h, positions, frequencies) for h in (query, key))
        y = attend_in_groups(query, key, value, mask, scale=heads[1] ** -0.5)
        return nn.DenseGeneral(width, (-2, -1), name="out", **shared)(y)
