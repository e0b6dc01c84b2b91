"""GPT-2: a pre-norm transformer decoder that predicts the next token."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.decoder.context import read_context
from lcjax.models.presets import preset_fields
from lcjax.models.transformer import TransformerBlock, apply_block

_SIZES = {
    "124M": dict(depth=12, width=768, num_heads=12),
    "medium": dict(depth=24, width=1024, num_heads=16),
    "large": dict(depth=36, width=1280, num_heads=20),
    "XL": dict(depth=48, width=1600, num_heads=25),
}


class GPT2(nn.Module):
    """GPT-2: embeddings of tokens and positions, causal pre-norm blocks, layer norm, tied head.

    With a key-value cache from `init_cache` in the variables, under "cache", the tokens continue
    the cached text. A prompt and a single token run the same code, each compiled once for its
    shape:

      step = jax.jit(partial(model.apply, last_only=True, mutable="cache"))
      logits, cache = step(variables | {"cache": model.init_cache(batch, 64)}, prompt)
      logits, cache = step(variables | cache, logits.argmax(-1)[:, None])

    Attributes:
      depth: number of blocks.
      width: number of features of a token.
      num_heads: number of attention heads; must divide the width.
      mlp_hidden: hidden width of the MLPs; None is four times the width, as published.
      vocab_size: size of the vocabulary.
      max_length: maximum number of tokens of a text, the length of the position table.
      activation: elementwise; the tanh approximation of GELU by default.
      glu: whether the MLPs are gated linear units; SwiGLU with `nn.silu`. Not published.
      dropout: rate, after the embeddings and after every residual branch.
      epsilon: epsilon of the layer norms.
      dtype: dtype of the computation and the cache. Params and logits are float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.GPT2.from_preset("124M")
      >>> tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)[0].shape
      (1, 8, 50257)

    References: Radford et al. 2019, "Language models are unsupervised multitask learners",
    section 2.3 and table 2.
    """

    depth: int
    width: int
    num_heads: int
    mlp_hidden: int | None = None
    vocab_size: int = 50_257
    max_length: int = 1024
    activation: Callable[[jax.Array], jax.Array] = partial(nn.gelu, approximate=True)
    glu: bool = False
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, **fields: Any) -> Self:
        """Returns the published size 124M, medium, large or XL.

        Args:
          preset: the size.
          **fields: attributes that override the preset's.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        return cls(**(preset_fields(preset, _SIZES, cls.__name__) | fields))

    def init_cache(self, batch: int, length: int | None = None) -> dict[str, Any]:
        """Returns an empty key-value cache: keys and values (batch, length, heads, head width).

        Args:
          batch: number of texts.
          length: maximum number of cached tokens, padding included; None is `max_length`. Logits
            are NaN after more.
        """
        length = self.max_length if length is None else length
        heads = (batch, length, self.num_heads, self.width // self.num_heads)
        dtype = self.dtype or jnp.float32

        def block() -> dict[str, Any]:
            slots = {name: jnp.zeros(heads, dtype) for name in ("key", "value")}
            return {"attention": slots | {"index": jnp.int32(0)}}

        blocks = {f"block_{i}": block() for i in range(self.depth)}
        return blocks | {"real": jnp.zeros((batch, length), bool), "index": jnp.int32(0)}

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        last_only: bool = False,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits of the next token, float32 (batch, tokens, vocabulary).

        Args:
          tokens: integers (batch, tokens); NaN results from one that is not in the vocabulary.
          mask: bool or 0 and 1, (batch, tokens); False at padding, before or after the text: no
            token attends to it and positions do not count it. None: no padding.
          last_only: whether to return the logits of each text's last token only, (batch,
            vocabulary).
          deterministic: whether dropout is off.

        Raises:
          ValueError: tokens with other axes, or longer than `max_length` or the cache.
        """
        self._check(tokens)
        real = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
        context, overflow = read_context(self, real)
        embed = self._table("token_embedding", self.vocab_size)
        x = embed(tokens) + self._table("position_embedding", self.max_length)(context.positions)
        x = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")(x)
        for i in range(self.depth):
            block = TransformerBlock(
                num_heads=self.num_heads,
                mlp_hidden=self.mlp_hidden or 4 * self.width,
                activation=self.activation,
                glu=self.glu,
                dropout=self.dropout,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            attends = context.attends[:, None]
            x = apply_block(block, x, attends, deterministic=deterministic, remat=self.remat)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        if last_only:
            last = jnp.where(real, jnp.arange(tokens.shape[1])[None], 0).max(1)
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        logits = embed.attend(x).astype(jnp.float32)
        return logits if overflow is None else jnp.where(overflow, jnp.float32(jnp.nan), logits)

    def _table(self, name: str, size: int) -> nn.Embed:
        init = nn.initializers.truncated_normal(0.02)
        return nn.Embed(size, self.width, dtype=self.dtype, embedding_init=init, name=name)

    def _check(self, tokens: jax.Array) -> None:
        cached = self.has_variable("cache", "real")
        room = self.get_variable("cache", "real").shape[1] if cached else self.max_length
        if tokens.ndim != 2 or tokens.shape[1] > room:
            raise ValueError(
                f"tokens: got shape {tokens.shape}, expected (batch, tokens) of at most {room} "
                "tokens; truncate the texts, or use a longer cache."
            )
