"""What is before and after the blocks of a decoder: the embedding and the head."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcjax.models.decoder.config import DecoderConfig
from lcjax.models.decoder.norm import RMSNorm


class DecoderEmbedding(nn.Module):
    """Features of tokens: rows of the table `embedding`.

    Attributes:
      config: of the decoder.
      dtype: dtype of the features; None is the table's.
      param_dtype: dtype of the table at `init`.
    """

    config: DecoderConfig
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        """Declares the table."""
        shape = (self.config.vocab_size, self.config.width)
        init = nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns (batch, tokens, width).

        Args:
          tokens: integers (batch, tokens); NaN results from one that is not in the vocabulary.
        """
        rows = jnp.take(self.embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan)
        rows = rows.astype(self.dtype or rows.dtype)
        if self.config.scale_embedding:
            rows = rows * jnp.asarray(self.config.width**0.5, rows.dtype)
        return rows


class DecoderHead(nn.Module):
    """Logits of the vocabulary: a norm, `norm`, and a Dense, `kernel`, or the embedding table.

    Attributes:
      config: of the decoder.
      dtype: dtype of the computation; None takes the common dtype of inputs and params.
      param_dtype: dtype of params at `init`.
    """

    config: DecoderConfig
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array | None = None) -> jax.Array:
        """Returns logits, float32 (..., vocabulary).

        Args:
          x: tokens (..., width), the last block's output.
          table: the embedding (vocabulary, width) where the config ties the head to it; else None.

        Raises:
          ValueError: a tied head without a table.
        """
        config, dtypes = self.config, (self.dtype, self.param_dtype)
        x = RMSNorm(config.epsilon, config.norm_offset, *dtypes, name="norm")(x)
        if config.tied_head and table is None:
            raise ValueError(
                f"{'/'.join(self.path) or 'DecoderHead'}: got no table for a tied head; give the "
                "embedding."
            )
        if not config.tied_head:
            init, shape = nn.initializers.normal(0.02), (config.width, config.vocab_size)
            table = self.param("kernel", init, shape, self.param_dtype).T
        x, table = promote_dtype(x, table, dtype=self.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table).astype(jnp.float32)
        if config.logits_softcap is not None:
            logits = config.logits_softcap * jnp.tanh(logits / config.logits_softcap)
        return logits
