"""The transformer block, pre-norm or post-norm."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from lcjax.models.attention import Attention
from lcjax.nn.glu import CollapsibleGLU
from lcjax.nn.mlp import CollapsibleMLP


def apply_block(block: nn.Module, *inputs: Any, deterministic: bool, remat: bool) -> jax.Array:
    """Returns `block(*inputs)`, rematerialised on request.

    Args:
      block: a module.
      *inputs: arrays, or None.
      deterministic: whether dropout is off.
      remat: whether the backward pass recomputes the block instead of storing its activations.
    """

    def run(module: nn.Module, *arrays: Any) -> jax.Array:
        return module(*arrays, deterministic=deterministic)

    return (nn.remat(run) if remat else run)(block, *inputs)


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP; each is a residual branch with a layer norm.

    Attributes:
      num_heads: number of attention heads; must divide the width of a token.
      mlp_hidden: hidden width of the MLP.
      activation: elementwise, in the MLP.
      glu: whether the MLP is a gated linear unit without biases; SwiGLU with SiLU. It has no
        dropout inside.
      norm: "before" is pre-norm, `x + f(norm(x))`, as in ViT and GPT-2; "after" is post-norm,
        `norm(x + f(x))`, as in BERT.
      dropout: rate, after each residual branch.
      mlp_dropout: rate, after the MLP's activation.
      epsilon: epsilon of the layer norms.
      dtype: dtype of the computation; the softmax of attention is in float32 or wider.
    """

    num_heads: int
    mlp_hidden: int
    activation: Callable[[jax.Array], jax.Array]
    glu: bool = False
    norm: Literal["before", "after"] = "before"
    dropout: float = 0.0
    mlp_dropout: float = 0.0
    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns tokens of the same shape, (batch, tokens, width).

        Args:
          x: tokens (batch, tokens, width).
          mask: bool, broadcast to (batch, heads, tokens, tokens); True where a token (third axis)
            may attend to another (fourth).
          deterministic: whether dropout is off.
        """
        drop = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")
        attention = Attention(self.num_heads, dtype=self.dtype, name="attention")
        mlp = self._mlp(x.shape[-1])
        norm_1, norm_2 = (
            nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f"norm_{i}") for i in (1, 2)
        )
        if self.norm == "after":
            x = norm_1(x + drop(attention(x, mask)))
            return norm_2(x + drop(mlp(x, deterministic=deterministic)))
        x = x + drop(attention(norm_1(x), mask))
        return x + drop(mlp(norm_2(x), deterministic=deterministic))

    def _mlp(self, width: int) -> nn.Module:
        shared: dict[str, Any] = dict(
            activation=self.activation,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name="mlp",
        )
        if self.glu:
            return CollapsibleGLU(self.mlp_hidden, width, **shared)
        return CollapsibleMLP((self.mlp_hidden, width), dropout=self.mlp_dropout, **shared)
