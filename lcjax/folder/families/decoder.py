"""Decoders of the Llama family, layer by layer."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.families.family import LanguageFamily, Residual
from lcjax.folder.families.leaves import FolderLeaves
from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.interop.name_map import NameMap
from lcjax.models.activations import ACTIVATIONS
from lcjax.models.decoder import Decoder, DecoderBlock, text_context
from lcjax.models.decoder.norm import RMSNorm
from lcjax.nn.activations import Activation

_ROWS = 2**13  # of the vocabulary that are in memory at once
_context = jax.jit(text_context)


class DecoderFamily(LanguageFamily):
    """The layers of a `Decoder`."""

    first, last, bypass, act = ("gate", "up"), "down", "bypass", "act"
    residual: Residual
    model: Decoder

    def __init__(self, folder: ModelFolder, names: NameMap, fields: dict[str, Any]):
        """Takes the fields of the model that the folder's config describes."""
        self.model = Decoder(**fields)
        self.config = self.model.config
        self.residual = "normed" if self.config.post_norms else "sum"
        self.leaves = FolderLeaves(folder, names, self.model)
        self._layers = self.config.layers

    @property
    def depth(self) -> int:
        """See `Family`."""
        return self.config.depth

    @property
    def width(self) -> int:
        """See `Family`."""
        return self.config.width

    @property
    def hidden(self) -> int:
        """See `Family`."""
        return self.config.mlp_hidden

    @property
    def longest(self) -> int:
        """See `Family`."""
        return self.config.max_length

    @property
    def vocabulary(self) -> int:
        """See `Family`."""
        return self.config.vocab_size

    @property
    def activation(self) -> Activation:
        """See `Family`."""
        return ACTIVATIONS[self.config.activation]

    def block(self, layer: int) -> nn.Module:
        """See `Family`."""
        return DecoderBlock(self.config)

    def arguments(self, layer: int, real: np.ndarray) -> tuple[Any, ...]:
        """See `Family`."""
        return _context(real), self._layers[layer]

    def embed(self, tokens: np.ndarray) -> jax.Array:
        """See `Family`."""
        rows = self.leaves.rows(("embed", "embedding"), tokens.reshape(-1))
        rows = rows.reshape(*tokens.shape, -1)
        scale = self.width**0.5 if self.config.scale_embedding else 1.0
        return jnp.asarray(rows * np.float32(scale))

    def next_token_loss(self, states: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See `LanguageFamily`.

        Rows of the vocabulary are read some thousand at a time.
        """
        config = self.config
        norm = RMSNorm(config.epsilon, config.norm_offset)
        scale = jnp.asarray(self.leaves.read("head", "norm", "scale"))
        x = norm.apply({"params": {"scale": scale}}, jnp.asarray(states))
        tied = config.tied_head
        path = ("embed", "embedding") if tied else ("head", "kernel")  # both (vocabulary, width)
        total, chosen = jnp.full(len(states), -jnp.inf), jnp.zeros(len(states))
        for start in range(0, self.vocabulary, _ROWS):
            end = min(start + _ROWS, self.vocabulary)
            rows = self.leaves.rows(path, np.arange(start, end))
            total, chosen = _added(
                x, rows, np.int32(start), targets, (total, chosen), cap=config.logits_softcap
            )
        return np.asarray(total - chosen)


@partial(jax.jit, static_argnames="cap")
def _added(
    x: jax.Array, rows: Any, start: Any, targets: Any, so_far: Any, *, cap: float | None
) -> tuple[jax.Array, jax.Array]:
    """Returns log-sum-exp of the logits so far, and logits of the targets, with more rows."""
    total, chosen = so_far
    logits = jnp.dot(x, rows.T, precision=jax.lax.Precision.HIGHEST)
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    total = jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1))
    place = targets - start
    inside = (place >= 0) & (place < rows.shape[0])
    found = jnp.take_along_axis(logits, jnp.where(inside, place, 0)[:, None], axis=1)[:, 0]
    return total, jnp.where(inside, found, chosen)
