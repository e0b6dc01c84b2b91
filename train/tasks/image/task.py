"""Tasks of image runs."""

from pathlib import Path
from typing import Any

from train.data.batches import BatchStream, in_memory
from train.data.images.dataset import ImageData, load
from train.data.images.splits import Split
from train.data.images.stream import streamed
from train.tasks.base import Task, assemble, keys
from train.tasks.image.config import ImageConfig
from train.tasks.image.objective import ImageClassifier


def make_task(config: ImageConfig) -> Task:
    """Returns the task of a configuration.

    Raises:
      ValueError: if a flag does not fit the data, or the data set does not exist.
    """
    data = load(
        config.data.dataset,
        data_dir=config.data.data_dir,
        validation=config.data.validation,
        num_classes=config.data.num_classes,
        image_size=config.data.image_size,
    )
    classifier = ImageClassifier(
        config.model.build(data.num_classes),
        mean=data.mean,
        std=data.std,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
    )
    teacher_spec = {"dataset": config.data.dataset, "image_size": config.data.image_size}
    data_spec = teacher_spec | {
        "num_classes": data.num_classes,
        "image_shape": list(data.image_shape),
        "mean": list(data.mean),
        "std": list(data.std),
        "class_names": list(data.class_names),
    }
    variables = classifier.init(keys(config)[0], data.image_shape)
    source = make_source(config, data)
    return assemble(
        config, data, classifier, source, variables, data_spec=data_spec, teacher_spec=teacher_spec
    )


def read_test_split(data_spec: dict[str, Any], data_dir: Path | None) -> Any:
    """Returns the test split of the data that a checkpoint describes.

    Raises:
      DataError: if the data set does not exist, or has other classes now.
    """
    data = load(
        data_spec["dataset"],
        data_dir=data_dir,
        num_classes=data_spec["num_classes"],
        image_size=data_spec["image_size"],
    )
    return data.test()


def make_source(config: ImageConfig, data: ImageData) -> BatchStream:
    """Returns the batches of the training split."""
    size, seed = config.data.batch_size, config.run.seed
    if not isinstance(data.train, Split):
        return streamed(data.train, size, seed=seed)
    arrays = (data.train.images, data.train.labels)
    return in_memory(arrays, size, seed=seed, steps_per_dispatch=config.run.steps_per_dispatch)
