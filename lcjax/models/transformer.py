"""The transformer block, with its layer norms before or after the branches."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from lcjax.models.attention import Attention
from lcjax.nn.glu import CollapsibleGLU
from lcjax.nn.mlp import CollapsibleMLP


def run_block(block: nn.Module, *inputs: Any, deterministic: bool, remat: bool) -> jax.Array:
    """Returns what a block makes of its inputs.

    Args:
      block: a module.
      *inputs: arrays, or None.
      deterministic: whether dropout is off.
      remat: whether what is inside the block is not kept, but computed again in the backward pass.
    """

    def run(module: nn.Module, *arrays: Any) -> jax.Array:
        return module(*arrays, deterministic=deterministic)

    return (nn.remat(run) if remat else run)(block, *inputs)


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP; each is a residual branch with a layer norm.

    Attributes:
      num_heads: divides the width of a token.
      mlp_hidden: hidden width of the MLP.
      activation: elementwise, in the MLP.
      gated: whether the MLP is a gated one without biases; with SiLU that is SwiGLU. It has no
        dropout of its own.
      norm: "before" normalises what goes into a branch, `x + f(norm(x))`, as ViT and GPT-2;
        "after" the sum, `norm(x + f(x))`, as BERT.
      dropout: rate, after either residual branch.
      mlp_dropout: rate, after the MLP's activation.
      epsilon: of the layer norms.
      dtype: of the computation; attention weights are always normalised in float32.
    """

    num_heads: int
    mlp_hidden: int
    activation: Callable[[jax.Array], jax.Array]
    gated: bool = False
    norm: Literal["before", "after"] = "before"
    dropout: float = 0.0
    mlp_dropout: float = 0.0
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
        if self.gated:
            return CollapsibleGLU(self.mlp_hidden, width, **shared)
        return CollapsibleMLP((self.mlp_hidden, width), dropout=self.mlp_dropout, **shared)
