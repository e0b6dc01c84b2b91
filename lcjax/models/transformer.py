"""The pre-norm transformer block."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lcjax.layers import CollapsibleMLP


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    **_: Any,  # dropout of attention weights, which no model here has
) -> jax.Array:
    """Attention in the inputs' dtype with a float32 softmax; Flax's own has one or the other."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP; each is a residual behind a layer norm.

    Attributes:
      num_heads: divides the width of a token.
      mlp_hidden: hidden width of the MLP.
      activation: elementwise, in the MLP.
      dropout: rate, within the MLP and after either residual branch.
      epsilon: of the layer norms.
      dtype: of the computation; attention weights are always normalised in float32.
    """

    num_heads: int
    mlp_hidden: int
    activation: Callable[[jax.Array], jax.Array]
    dropout: float = 0.0
    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns tokens (batch, tokens, width), as they came.

        Args:
          x: tokens (batch, tokens, width).
          mask: bool, broadcast to (batch, heads, tokens, tokens); True where a token (third axis)
            may look at another (fourth).
          deterministic: whether dropout is off.
        """
        drop = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm_1")(x)
        y = nn.MultiHeadDotProductAttention(
            self.num_heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            attention_fn=_attend,
            name="attention",
        )(y, mask=mask)
        x = x + drop(y)

        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm_2")(x)
        y = CollapsibleMLP(
            features=(self.mlp_hidden, x.shape[-1]),
            activation=self.activation,
            dropout=self.dropout,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name="mlp",
        )(y, deterministic=deterministic)
        return x + drop(y)
