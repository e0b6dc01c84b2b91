"""A task: data, model, loss and first variables of a run."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from train.config.base import Config
from train.config.calibrated import CalibratedConfig
from train.data.batches import BatchStream
from train.data.dataset import Dataset
from train.engine.loop import LossFn, Metrics
from train.tasks.metric import Metric
from train.tasks.objective import Classifier
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, a classifier of it and a configuration.

    Attributes:
      config: of the run.
      data: three splits.
      classifier: the module and its preprocessing.
      loss: of a training step.
      source: batches of the training split, as the loss takes them.
      variables: with which training begins.
      data_spec: description of the data in the metadata of checkpoints, from which the data can be
        read again and new inputs be processed alike; JSON.
      teacher_spec: the part of it that a teacher must have in common.
    """

    config: Config
    data: Dataset
    classifier: Classifier
    loss: LossFn
    source: BatchStream
    variables: Any
    data_spec: dict[str, Any]
    teacher_spec: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Number of steps in --epochs."""
        return self.steps_in(self.config.optimizer.epochs)

    def steps_in(self, epochs: float) -> int:
        """Returns the number of steps in so many epochs, rounded."""
        return round(epochs * self.source.steps_per_epoch)

    def validate(self, variables: Any) -> tuple[Metrics, float]:
        """Returns the scores on the validation split as metrics, and the score of the model."""
        scores = self.scores(variables)
        records = {f"validation/{name}": value for name, value in scores.items()}
        return records, self.metric.score(scores)

    def scores(self, variables: Any) -> dict[str, float]:
        """Returns the scores on the validation split, such as accuracy (0 to 1) and loss."""
        return self._evaluate(variables, self.data.validation)

    def score(self, variables: Any) -> float:
        """Returns the score of a model on the validation split by its metric; higher is better."""
        return self.metric.score(self.scores(variables))

    @property
    def metric(self) -> Metric:
        """The metric of the task's models."""
        return self.classifier.metric

    @cached_property
    def calibration(self) -> list[tuple[np.ndarray]]:
        """Batches of training inputs, evenly spaced over the split, that sites are fitted to."""
        protocol = self.config.protocol
        if not isinstance(protocol, CalibratedConfig):
            raise TypeError(f"--protocol {protocol.protocol} has no calibration: it fits no site.")
        train = self.data.train
        count = min(protocol.calibration_images, len(train))
        size = min(self.config.data.batch_size, count)
        chosen = np.linspace(0, len(train) - 1, count // size * size).astype(int)
        few = self.classifier.few_shapes(train.take(chosen))
        return [(inputs,) for inputs, _ in self.classifier.batches(few, size)]

    @cached_property
    def _evaluate(self) -> Any:
        return self.classifier.evaluator(self.config.data.batch_size)


def assemble(
    config: Config,
    data: Dataset,
    classifier: Classifier,
    source: BatchStream,
    variables: Any,
    *,
    data_spec: dict[str, Any],
    teacher_spec: Mapping[str, Any],
) -> Task:
    """Returns a task with new or pretrained variables and no teacher.

    Args:
      config: of the run.
      data: three splits.
      classifier: the module and its preprocessing.
      source: batches of the training split.
      variables: with which training begins.
      data_spec: description of the data for checkpoints.
      teacher_spec: the part of it that a teacher must have in common.

    Raises:
      ConfigError: if --remat is set for a module without blocks.
    """
    if config.optimizer.remat:
        classifier = dataclasses.replace(classifier, module=_with_remat(classifier.module))
    return Task(
        config, data, classifier, classifier.loss, source, variables, data_spec, teacher_spec
    )


def _with_remat(module: nn.Module) -> nn.Module:
    """Returns a module that recomputes its blocks in the backward pass."""
    if not hasattr(module, "remat"):
        raise ConfigError(f"--remat is set, but {type(module).__name__} has no blocks.")
    return module.clone(remat=True)  # type: ignore


def keys(config: Config) -> tuple[jax.Array, jax.Array]:
    """Returns the random keys of the first params and of the training steps."""
    init_key, step_key = jax.random.split(jax.random.key(config.run.seed))
    return init_key, step_key
