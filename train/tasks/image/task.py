"""The task of a run on images."""

from train.data.batches import Source, in_memory, streamed
from train.data.images.dataset import ImageData, load
from train.data.images.splits import Split
from train.tasks.base import Task, assemble, keys
from train.tasks.image.config import ImageConfig
from train.tasks.image.objective import ImageClassifier


def make_task(config: ImageConfig) -> Task:
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
    classifier = ImageClassifier(
        config.model.build(data.num_classes),
        mean=data.mean,
        std=data.std,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
    )
    shared = {"dataset": config.data.dataset, "image_size": config.data.image_size}
    known = shared | {
        "num_classes": data.num_classes,
        "image_shape": list(data.image_shape),
        "mean": list(data.mean),
        "std": list(data.std),
    }
    variables = classifier.init(keys(config)[0], data.image_shape)
    source = make_source(config, data)
    return assemble(config, data, classifier, source, variables, known=known, shared=shared)


def make_source(config: ImageConfig, data: ImageData) -> Source:
    """Returns the batches of the training split."""
    size, seed = config.data.batch_size, config.run.seed
    if not isinstance(data.train, Split):
        return streamed(data.train, size, seed=seed)
    arrays = (data.train.images, data.train.labels)
    return in_memory(arrays, size, seed=seed, steps_per_dispatch=config.run.steps_per_dispatch)
