"""What a run works on: data, model, batches, and the deep model's first variables."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import numpy as np

from train.classifier import Classifier
from train.config import Config
from train.data import ImageData, batches, load
from train.distill import with_teacher
from train.finished import deep_variables, fresh_compact, teacher
from train.loop import Loss, Metrics
from train.sources import Source, in_memory, streamed
from train.splits import Split


@dataclasses.dataclass(frozen=True)
class Task:
    """An image set, a classifier of it and a configuration.

    Attributes:
      config: of the run.
      data: three splits.
      classifier: the module with what is done to images before it.
      loss: of a training step, with a teacher if --teacher names one.
      source: batches of the training split, as the loss takes them.
      variables: with which training begins.
    """

    config: Config
    data: ImageData
    classifier: Classifier
    loss: Loss
    source: Source
    variables: Any

    @property
    def steps(self) -> int:
        """Steps of a run of --epochs."""
        return self.steps_in(self.config.optimizer.epochs)

    def steps_in(self, epochs: float) -> int:
        """Returns the steps of so many epochs, rounded."""
        return round(epochs * self.source.steps_per_epoch)

    def validate(self, variables: Any) -> Metrics:
        """Returns accuracy (0 to 1) and loss on the validation split, by name."""
        scores = self._evaluate(variables, self.data.validation)
        return {f"validation/{name}": value for name, value in scores.items()}

    def accuracy(self, variables: Any) -> float:
        """Returns the accuracy on the validation split, 0 to 1."""
        return self.validate(variables)["validation/accuracy"]

    @cached_property
    def calibration(self) -> list[tuple[np.ndarray]]:
        """Batches of training images, evenly spaced over the split."""
        train = self.data.train
        count = min(self.config.protocol.calibration_images, len(train))
        size = min(self.config.data.batch_size, count)
        chosen = np.linspace(0, len(train) - 1, count // size * size).astype(int)
        return [(images,) for images, _ in batches(train.take(chosen), size)]

    @cached_property
    def _evaluate(self) -> Any:
        return self.classifier.evaluator(self.config.data.batch_size)


def make_task(config: Config) -> Task:
    """Returns the data and the model that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set or a run is not there.
    """
    data = load(
        config.data.dataset,
        data_dir=config.data.data_dir,
        validation=config.data.validation,
        num_classes=config.data.num_classes,
        image_size=config.data.image_size,
    )
    classifier = Classifier(
        config.model.build(data.num_classes),
        mean=data.mean,
        std=data.std,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
    )
    loss, source, protocol = classifier.loss, make_source(config, data), config.protocol
    variables = classifier.init(keys(config)[0], data.image_shape)
    if protocol.deep is not None:
        variables = deep_variables(protocol.deep, like=variables)
    if protocol.collapsed_from is not None:
        variables = fresh_compact(protocol.collapsed_from, variables, keys(config)[0])
    if protocol.teacher is not None:
        loss, source = with_teacher(classifier, source, *teacher(protocol.teacher, config.data))
    return Task(config, data, classifier, loss, source, variables)


def keys(config: Config) -> tuple[jax.Array, jax.Array]:
    """Returns the random keys of the first params and of the steps."""
    init_key, step_key = jax.random.split(jax.random.key(config.run.seed))
    return init_key, step_key


def make_source(config: Config, data: ImageData) -> Source:
    """Returns the batches of the training split."""
    size, seed = config.data.batch_size, config.run.seed
    if not isinstance(data.train, Split):
        return streamed(data.train, size, seed=seed)
    arrays = (data.train.images, data.train.labels)
    return in_memory(arrays, size, seed=seed, steps_per_dispatch=config.run.steps_per_dispatch)
