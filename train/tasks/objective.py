"""Classification: the loss of a training step, and the scores over a split."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lcjax.calibration.statistics import Mask
from train.runtime.sharding import over_batch, place
from train.tasks.metric import ACCURACY, Metric


@dataclasses.dataclass(frozen=True)
class Classifier(abc.ABC):
    """A module that classifies inputs of one kind, with what is done to them before it.

    Attributes:
      module: maps what is made of the inputs to logits.
      metric: which of the scores a model is judged by.
      mask: `mask(inputs)` tells which positions count where sites are fitted; None for all.
    """

    metric: ClassVar[Metric] = ACCURACY
    mask: ClassVar[Mask | None] = None
    module: nn.Module

    @abc.abstractmethod
    def logits(self, variables: Any, inputs: jax.Array) -> Any:
        """Returns logits (..., classes) of inputs as they are stored."""

    @abc.abstractmethod
    def forward(self, params: Any, stats: Any, inputs: jax.Array, key: jax.Array) -> Any:
        """Returns what training sees: (inputs augmented, logits, new stats)."""

    @abc.abstractmethod
    def batches(self, split: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yields a split once in batches of inputs and labels; what only fills up has label -1."""

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        """Returns the mean cross entropy of a batch, and (new stats, metrics)."""
        inputs, labels = batch
        _, logits, stats = self.forward(params, stats, inputs, key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (stats, {"train/accuracy": (logits.argmax(-1) == labels).mean()})

    def scores(self, accuracy: float, loss: float) -> dict[str, float]:
        """Returns what is told of a model: accuracy, 0 to 1, and mean loss, by name."""
        return {"accuracy": accuracy, "loss": loss}

    def evaluator(self, batch_size: int) -> Callable[[Any, Any], dict[str, float]]:
        """Returns `evaluate(variables, split)`: the `scores` over a split."""

        @jax.jit
        def totals(variables: Any, inputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            inputs, labels = over_batch((inputs, labels))
            logits, held = self.logits(variables, inputs), labels >= 0
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            right = logits.argmax(-1) == labels
            return {"loss": (losses * held).sum(), "accuracy": right.sum(), "count": held.sum()}

        def evaluate(variables: Any, split: Any) -> dict[str, float]:
            variables = place(variables, variables)
            parts = [totals(variables, *batch) for batch in self.batches(split, batch_size)]
            sums = jax.tree.map(lambda *values: float(sum(values)), *jax.device_get(parts))
            return self.scores(*(sums[name] / sums["count"] for name in ("accuracy", "loss")))

        return evaluate
