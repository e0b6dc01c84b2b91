"""Text classification: the module, and the mask of its padding."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from train.data.text.length_buckets import text_batches
from train.models.serialization import module_from_json
from train.tasks.objective import Classifier


def real_tokens(tokens: jax.Array) -> jax.Array:
    """Returns which positions are tokens rather than padding; bool, of the same shape."""
    return tokens >= 0


@dataclasses.dataclass(frozen=True)
class TextClassifier(Classifier):
    """A module that classifies texts as tokens (batch, tokens), padded by `length_buckets`.

    Attributes:
      module: maps tokens and their mask to logits.
    """

    mask = staticmethod(real_tokens)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "TextClassifier":
        """Returns the classifier of a run's checkpoint, from its metadata."""
        data = metadata["data"]
        return cls(module_from_json(data["module"], num_classes=len(data["class_names"])))

    def logits(self, variables: Any, inputs: jax.Array) -> Any:
        """Returns logits (batch, classes) of tokens (batch, tokens)."""
        return self.module.apply(variables, *_arguments(inputs))

    def forward(self, params: Any, stats: Any, inputs: jax.Array, key: jax.Array) -> Any:
        """Returns (tokens, logits, new stats) in training mode."""
        logits, stats = self.module.apply(
            {"params": params, **stats},
            *_arguments(inputs),
            deterministic=False,
            rngs={"dropout": key},
            mutable=list(stats),
        )
        return inputs, logits, stats

    def few_shapes(self, split: Any) -> Any:
        """Returns a split that is padded to at most two lengths."""
        return split.with_fewer_lengths(2)

    def batches(self, split: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yields a split once: tokens and labels; padding has label -1."""
        return text_batches(split, batch_size)


def _arguments(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the module's inputs; the first token counts even in a row of padding."""
    real = jnp.asarray(real_tokens(tokens)).at[:, 0].set(True)
    return jnp.maximum(tokens, 0), real
