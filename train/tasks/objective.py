"""Classification: the loss of a training step, and the scores on a split."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.runtime.sharding import place, shard_batch
from train.tasks.metric import ACCURACY, Metric


@dataclasses.dataclass(frozen=True)
class Classifier(abc.ABC):
    """A module that classifies inputs of one kind, and its preprocessing.

    Attributes:
      module: maps preprocessed inputs to logits.
      metric: of the models.
      mask: `mask(inputs)` returns which positions sites are fitted to; None for all.
    """

    metric: ClassVar[Metric] = ACCURACY
    mask: ClassVar[Callable[[Any], Any] | None] = None
    module: nn.Module

    @classmethod
    @abc.abstractmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Self:
        """Returns the classifier of a run's checkpoint, from its metadata."""

    @abc.abstractmethod
    def logits(self, variables: Any, inputs: jax.Array) -> Any:
        """Returns logits (..., classes) of raw inputs."""

    @abc.abstractmethod
    def forward(self, params: Any, stats: Any, inputs: jax.Array, key: jax.Array) -> Any:
        """Returns (augmented inputs, logits, new stats) in training mode."""

    def comparable(self, logits: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits (..., classes) of two models for the classes that both have."""
        return logits, others

    @abc.abstractmethod
    def batches(self, split: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yields a split once in batches of inputs and labels; padding has label -1."""

    def few_shapes(self, split: Any) -> Any:
        """Returns a split of few examples, whose batches have few shapes."""
        return split

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        """Returns the mean cross entropy of a batch, and (new stats, metrics)."""
        inputs, labels = batch
        _, logits, stats = self.forward(params, stats, inputs, key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (stats, {"train/accuracy": (logits.argmax(-1) == labels).mean()})

    def scores(self, accuracy: float, loss: float) -> dict[str, float]:
        """Returns the scores by name, from the accuracy, 0 to 1, and the mean loss."""
        return {"accuracy": accuracy, "loss": loss}

    def evaluator(self, batch_size: int) -> Callable[[Any, Any], dict[str, float]]:
        """Returns `evaluate(variables, split)`, which returns the `scores` on a split."""

        @jax.jit
        def totals(variables: Any, inputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            inputs, labels = shard_batch((inputs, labels))
            logits, counts = self.logits(variables, inputs), labels >= 0
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            right = logits.argmax(-1) == labels
            return {
                "loss": jnp.where(counts, losses, 0).sum(),
                "accuracy": right.sum(),
                "count": counts.sum(),
            }

        def evaluate(variables: Any, split: Any) -> dict[str, float]:
            variables = place(variables)
            parts = [totals(variables, *batch) for batch in self.batches(split, batch_size)]
            sums = jax.tree.map(lambda *values: float(sum(values)), *jax.device_get(parts))
            return self.scores(*(sums[name] / sums["count"] for name in ("accuracy", "loss")))

        return evaluate
