"""Language modeling: a classifier of every next token."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.models import GPT2, Decoder
from train.data.text.windows import window_batches
from train.models.serialization import module_from_json
from train.tasks.metric import LOSS
from train.tasks.objective import Classifier


@dataclasses.dataclass(frozen=True)
class LanguageModel(Classifier):
    """A decoder that predicts the token after each of the tokens (batch, tokens).

    Attributes:
      module: maps tokens to logits (batch, tokens, vocabulary).
    """

    metric = LOSS
    module: GPT2 | Decoder

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text, the context length."""
        sizes = self.module.config if isinstance(self.module, Decoder) else self.module
        return sizes.max_length

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "LanguageModel":
        """Returns the model of a run's checkpoint, from its metadata."""
        return cls(module_from_json(metadata["data"]["module"]))

    def logits(self, variables: Any, inputs: jax.Array) -> Any:
        """Returns logits (batch, tokens, vocabulary) of tokens (batch, tokens)."""
        return self.module.apply(variables, inputs)

    def forward(self, params: Any, stats: Any, inputs: jax.Array, key: jax.Array) -> Any:
        """Returns (tokens, logits, new stats) in training mode."""
        logits, stats = self.module.apply(
            {"params": params, **stats},
            inputs,
            deterministic=False,
            rngs={"dropout": key},
            mutable=list(stats),
        )
        return inputs, logits, stats

    def comparable(self, logits: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns both without the last rows of the larger vocabulary, which are padding."""
        rows = min(logits.shape[-1], others.shape[-1])
        return logits[..., :rows], others[..., :rows]

    def init(self, key: jax.Array) -> Any:
        """Returns new variables."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, 1), jnp.int32))

    def batches(self, split: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yields a split once: tokens and next tokens; those that do not count are -1."""
        return window_batches(split, batch_size)

    def scores(self, accuracy: float, loss: float) -> dict[str, float]:
        """Returns accuracy and loss per token, and the perplexity, the exponential of the loss."""
        try:
            perplexity = math.exp(loss)
        except OverflowError:
            perplexity = math.inf
        return super().scores(accuracy, loss) | {"perplexity": perplexity}
