"""ModernBERT, layer by layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.families.encoder import EncoderFamily
from lcjax.folder.families.family import Residual
from lcjax.models.modernbert import ModernBERT
from lcjax.models.modernbert.block import ModernBERTBlock
from lcjax.models.modernbert.modernbert import block_fields, layer_context

_context = jax.jit(layer_context, static_argnums=(0, 1))


class ModernBertFamily(EncoderFamily):
    """The layers of a ModernBERT; the norm after the last of them is no part of it."""

    first, last, bypass, act = ("gate", "up"), "down", "bypass", "act"
    residual: Residual = "sum"
    module = ModernBERT
    model: ModernBERT

    def block(self, layer: int) -> nn.Module:
        """See `Family`."""
        return ModernBERTBlock(**block_fields(self.model, layer))

    def arguments(self, layer: int, real: np.ndarray) -> tuple[Any, ...]:
        """See `Family`."""
        like = min(layer % self.model.global_every, 1)  # two kinds of layers, compiled once each
        return _context(self.model, like, real)

    def embed(self, tokens: np.ndarray) -> jax.Array:
        """See `Family`."""
        words = self.leaves.rows(("token_embedding", "embedding"), tokens.reshape(-1))
        return self._normed("norm", words.reshape(*tokens.shape, -1))

    def outputs(self, states: np.ndarray) -> np.ndarray:
        """See `Family`."""
        return np.asarray(self._normed("final_norm", states))

    def _normed(self, name: str, x: np.ndarray) -> jax.Array:
        norm = nn.LayerNorm(epsilon=self.model.epsilon, use_bias=self.model.norm_bias)
        return jnp.asarray(norm.apply({"params": self.leaves.tree(name)}, jnp.asarray(x)))
