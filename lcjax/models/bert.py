"""BERT: a post-norm transformer encoder for text; RoBERTa and DistilBERT are variants."""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.activations import exact_gelu
from lcjax.models.presets import preset_fields
from lcjax.models.transformer import TransformerBlock, apply_block

_ROBERTA: dict[str, Any] = dict(vocab_size=50_265, position_offset=2, token_types=1, epsilon=1e-5)
_SIZES: dict[str, dict[str, Any]] = {
    "base": dict(depth=12, width=768, num_heads=12, mlp_hidden=3072),
    "large": dict(depth=24, width=1024, num_heads=16, mlp_hidden=4096),
    "MiniLM-L6": dict(depth=6, width=384, num_heads=12, mlp_hidden=1536),
    "MiniLM-L12": dict(depth=12, width=384, num_heads=12, mlp_hidden=1536),
    "RoBERTa-base": dict(depth=12, width=768, num_heads=12, mlp_hidden=3072, **_ROBERTA),
    "RoBERTa-large": dict(depth=24, width=1024, num_heads=16, mlp_hidden=4096, **_ROBERTA),
    "DistilBERT": dict(
        depth=6, width=768, num_heads=12, mlp_hidden=3072, token_types=0, pooler_activation=nn.relu
    ),
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
      pooler_activation: elementwise, after the pooler's Dense.
      max_length: maximum number of tokens of a text.
      position_offset: row of the position table that the first token takes. Where it is not 0,
        padding does not count, and takes the row before, as in RoBERTa.
      token_types: number of segments: first and second sentence of a pair; 0 for no table.
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
    arXiv 2002.10957, for MiniLM; Liu et al. 2019, arXiv 1907.11692, for RoBERTa; Sanh et al. 2019,
    arXiv 1910.01108, for DistilBERT.
    """

    num_classes: int | None
    depth: int
    width: int
    num_heads: int
    mlp_hidden: int
    pool: Literal["pooler", "token", "mean"] | None = "pooler"
    pooler_activation: Callable[[jax.Array], jax.Array] = nn.tanh
    vocab_size: int = 30_522
    max_length: int = 512
    position_offset: int = 0
    token_types: int = 2
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    dropout: float = 0.0
    epsilon: float = 1e-12
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns a published model: base, large, MiniLM-L6 or -L12, RoBERTa-base, DistilBERT, ...

        Args:
          preset: the size; that of BERT where it has no other name.
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
        real = None if mask is None else mask.astype(bool)
        x = self._table("token_embedding", self.vocab_size)(tokens)
        if self.token_types:
            token_types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + self._table("type_embedding", self.token_types)(token_types)
        table = self._table("position_embedding", self.max_length + self.position_offset)
        x = drop(norm(x + table(self._positions(tokens, real))))
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

    def _positions(self, tokens: jax.Array, real: jax.Array | None) -> jax.Array:
        """Returns rows of the position table, integers (batch or 1, tokens)."""
        if not self.position_offset or real is None:
            return self.position_offset + jnp.arange(tokens.shape[1])[None]
        counted = jnp.where(real, jnp.cumsum(real, axis=1, dtype=jnp.int32), 0)
        return counted + jnp.int32(self.position_offset - 1)

    def _pooled(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        match self.pool:
            case "pooler":
                pooler = nn.Dense(self.width, dtype=self.dtype, name="pooler")
                return self.pooler_activation(pooler(x[:, 0]))
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
