"""What a run works on: data, model, batches, and the deep model's first variables."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from train.config.base import Config
from train.data.batches import Source
from train.data.dataset import LabelledData
from train.engine.loop import Loss, Metrics
from train.runs.finished import deep_variables, fresh_compact, teacher
from train.tasks.distillation import Teaching, with_teacher
from train.tasks.metric import Metric
from train.tasks.objective import Classifier
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, a classifier of it and a configuration.

    Attributes:
      config: of the run.
      data: three splits.
      classifier: the module with what is done to inputs before it.
      loss: of a training step, with a teacher if --teacher names one.
      source: batches of the training split, as the loss takes them.
      variables: with which training begins.
      known: what a checkpoint says of the data, so that they can be read again and new ones be made
        alike; JSON.
    """

    config: Config
    data: LabelledData
    classifier: Classifier
    loss: Loss
    source: Source
    variables: Any
    known: dict[str, Any]

    @property
    def steps(self) -> int:
        """Steps of a run of --epochs."""
        return self.steps_in(self.config.optimizer.epochs)

    def steps_in(self, epochs: float) -> int:
        """Returns the steps of so many epochs, rounded."""
        return round(epochs * self.source.steps_per_epoch)

    def validate(self, variables: Any) -> tuple[Metrics, float]:
        """Returns the scores on the validation split, by their names in the records, and merit."""
        scores = self.scores(variables)
        records = {f"validation/{name}": value for name, value in scores.items()}
        return records, self.metric.merit(scores)

    def scores(self, variables: Any) -> dict[str, float]:
        """Returns the scores on the validation split, accuracy (0 to 1) and loss among them."""
        return self._evaluate(variables, self.data.validation)

    def merit(self, variables: Any) -> float:
        """Returns how good a model is by its metric on the validation split; higher is better."""
        return self.metric.merit(self.scores(variables))

    @property
    def metric(self) -> Metric:
        """What models are judged by."""
        return self.classifier.metric

    @cached_property
    def calibration(self) -> list[tuple[np.ndarray]]:
        """Batches of training inputs, evenly spaced over the split."""
        train = self.data.train
        count = min(self.config.protocol.calibration_images, len(train))
        size = min(self.config.data.batch_size, count)
        chosen = np.linspace(0, len(train) - 1, count // size * size).astype(int)
        return [(inputs,) for inputs, _ in self.classifier.batches(train.take(chosen), size)]

    @cached_property
    def _evaluate(self) -> Any:
        return self.classifier.evaluator(self.config.data.batch_size)


def assemble(
    config: Config,
    data: LabelledData,
    classifier: Classifier,
    source: Source,
    variables: Any,
    *,
    known: dict[str, Any],
    shared: Mapping[str, Any],
) -> Task:
    """Returns a task that begins, and is taught, as its configuration says.

    Args:
      config: of the run.
      data: three splits.
      classifier: the module with what is done to inputs before it.
      source: batches of the training split.
      variables: with which training begins unless another run is named.
      known: what a checkpoint says of the data.
      shared: the part of it that a teacher must have in common.

    Raises:
      ValueError: when a run that is named is not there, or does not fit.
    """
    if config.optimizer.remat:
        classifier = dataclasses.replace(classifier, module=_with_remat(classifier.module))
    loss, protocol = classifier.loss, config.protocol
    if protocol.deep is not None:
        variables = deep_variables(protocol.deep, like=variables)
    if protocol.collapsed_from is not None:
        variables = fresh_compact(protocol.collapsed_from, variables, keys(config)[0])
    if protocol.teacher is not None:
        given = teacher(protocol.teacher, shared)
        loss, source = with_teacher(classifier, source, *given, teaching(config))
    return Task(config, data, classifier, loss, source, variables, known)


def _with_remat(module: nn.Module) -> nn.Module:
    """Returns a module that computes its blocks again in the backward pass."""
    if not hasattr(module, "remat"):
        raise ConfigError(f"--remat is set, but {type(module).__name__} has no blocks.")
    return module.clone(remat=True)  # type: ignore


def teaching(config: Config) -> Teaching:
    """Returns how a teacher is listened to."""
    return Teaching(config.protocol.teacher_weight, config.protocol.teacher_temperature)


def keys(config: Config) -> tuple[jax.Array, jax.Array]:
    """Returns the random keys of the first params and of the steps."""
    init_key, step_key = jax.random.split(jax.random.key(config.run.seed))
    return init_key, step_key
