"""BERT: a post-norm transformer encoder for text."""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.activations import exact_gelu
from lcjax.models.presets import preset_fields
from lcjax.models.transformer import TransformerBlock, apply_block

_SIZES = {
    "base": dict(depth=12, width=768, num_heads=12, mlp_hidden=3072),
    "large": dict(depth=24, width=1024, num_heads=16, mlp_hidden=4096),
    "MiniLM-L6": dict(depth=6, width=384, num_heads=12, mlp_hidden=1536),
    "MiniLM-L12": dict(depth=12, width=384, num_heads=12, mlp_hidden=1536),
}
_POOLS = ("pooler", "token", "mean", None)


class BERT(nn.Module):
    """BERT: embeddings of tokens, positions and token types, post-norm blocks, pooler, head.

    Attributes:
      num_classes: width of the head; None for no head, which returns the head's input.
      depth: number of blocks.
      width: number of features of a token.
      num_heads: number of attention heads; must divide the width.
      mlp_hidden: hidden width of the MLPs.
      pool: input of the head: "pooler", a Dense and tanh over the first token, as published;
        "token", the first token; "mean", the mean over tokens that are not padding; None, every
        token.
      vocab_size: size of the vocabulary; the uncased English one by default.
      max_length: maximum number of tokens of a text, the length of the position table.
      token_types: number of segments: first and second sentence of a pair.
      activation: elementwise; exact GELU by default.
      dropout: rate, after the embeddings, after every residual branch and before the head.
      epsilon: epsilon of the layer norms.
      dtype: dtype of the computation. Params and outputs are float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.BERT.from_preset("MiniLM-L6", num_classes=2)
      >>> tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)[0].shape
      (1, 2)

    References: Devlin et al. 2018, arXiv 1810.04805, section 3; Wang et al. 2020,
    arXiv 2002.10957, for MiniLM.
    """

    num_classes: int | None
    depth: int
    width: int
    num_heads: int
    mlp_hidden: int
    pool: Literal["pooler", "token", "mean"] | None = "pooler"
    vocab_size: int = 30_522
    max_length: int = 512
    token_types: int = 2
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    dropout: float = 0.0
    epsilon: float = 1e-12
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns the published size base, large, MiniLM-L6 or MiniLM-L12.

        Args:
          preset: the size.
          num_classes: width of the head, or None.
          **fields: attributes that override the preset's.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        return cls(
            num_classes=num_classes, **(preset_fields(preset, _SIZES, cls.__name__) | fields)
        )

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits, float32 (batch, classes), of tokens (batch, tokens).

        Without a head it returns the head's input, (batch, width). With pool None both have one
        more axis, (batch, tokens, ...).

        Args:
          tokens: integers (batch, tokens); NaN results from one that is not in the vocabulary.
          mask: bool or 0 and 1, (batch, tokens); False at padding, to which no token attends.
            None: no padding.
          token_types: integers (batch, tokens); None: all 0.
          deterministic: whether dropout is off.

        Raises:
          ValueError: tokens with other axes or longer than `max_length`, or an unknown `pool`.
        """
        self._check(tokens)
        drop = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")
        norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")
        token_types = jnp.zeros_like(tokens) if token_types is None else token_types
        x = self._table("token_embedding", self.vocab_size)(tokens)
        x = x + self._table("type_embedding", self.token_types)(token_types)
        positions = self._table("position_embedding", self.max_length)(jnp.arange(tokens.shape[1]))
        x = drop(norm(x + positions[None]))
        real = None if mask is None else mask.astype(bool)
        for i in range(self.depth):
            block = TransformerBlock(
                num_heads=self.num_heads,
                mlp_hidden=self.mlp_hidden,
                activation=self.activation,
                norm="after",
                dropout=self.dropout,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = apply_block(
                block,
                x,
                None if real is None else real[:, None, None, :],
                deterministic=deterministic,
                remat=self.remat,
            )
        x = self._pooled(x, real)
        if self.num_classes is not None:
            x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(drop(x))
        return x.astype(jnp.float32)

    def _table(self, name: str, size: int) -> nn.Embed:
        init = nn.initializers.truncated_normal(0.02)
        return nn.Embed(size, self.width, dtype=self.dtype, embedding_init=init, name=name)

    def _pooled(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        match self.pool:
            case "pooler":
                return nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="pooler")(x[:, 0]))
            case "token":
                return x[:, 0]
            case "mean":
                return x.mean(1, where=None if real is None else real[..., None])
        return x

    def _check(self, tokens: jax.Array) -> None:
        if self.pool not in _POOLS:
            raise ValueError(f"BERT: got pool={self.pool!r}, expected one of {_POOLS}.")
        if tokens.ndim != 2:
            raise ValueError(f"tokens: got shape {tokens.shape}, expected (batch, tokens).")
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"tokens: got texts of {tokens.shape[1]} tokens, expected at most max_length="
                f"{self.max_length}; truncate them."
            )
