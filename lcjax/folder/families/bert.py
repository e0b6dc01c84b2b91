"""BERT, RoBERTa and DistilBERT, layer by layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.families.encoder import EncoderFamily
from lcjax.folder.families.family import Residual
from lcjax.models.bert import BERT
from lcjax.models.transformer import TransformerBlock


class BertFamily(EncoderFamily):
    """The layers of a BERT or RoBERTa; hidden states leave a layer after its last norm."""

    first, last, bypass, act = ("dense_0",), "dense_1", "bypass_0", "act_0"
    residual: Residual = "input"
    module = BERT
    model: BERT

    def block(self, layer: int) -> nn.Module:
        """See `Family`."""
        model = self.model
        return TransformerBlock(
            num_heads=model.num_heads,
            mlp_hidden=model.mlp_hidden,
            activation=model.activation,
            norm="after",
            epsilon=model.epsilon,
        )

    def arguments(self, layer: int, real: np.ndarray) -> tuple[Any, ...]:
        """See `Family`."""
        return (jnp.asarray(real[:, None, None, :]),)

    def embed(self, tokens: np.ndarray) -> jax.Array:
        """See `Family`."""
        model = self.model
        words = self.leaves.rows(("token_embedding", "embedding"), tokens.reshape(-1))
        positions = np.arange(tokens.shape[1]) + model.position_offset  # padding follows the text
        places = self.leaves.rows(("position_embedding", "embedding"), positions)
        x = words.reshape(*tokens.shape, -1) + places[None]
        if model.token_types:
            x = x + self.leaves.rows(("type_embedding", "embedding"), np.zeros(1, int))[0]
        norm = nn.LayerNorm(epsilon=model.epsilon)
        return jnp.asarray(norm.apply({"params": self.leaves.tree("norm")}, jnp.asarray(x)))


class DistilBertFamily(BertFamily):
    """The layers of a DistilBERT."""

    hidden_field = "hidden_dim"
