"""Classifies pictures: `python -m train.image predict CHECKPOINT PICTURE...`.

The checkpoint, deep or compact, is enough; no other file of its run is needed. Prints the label and
its probability for each picture.
"""

from pathlib import Path

import jax
import numpy as np
import tyro

import lcjax
from train.data.images.pictures import opened
from train.data.images.resize import center_crop
from train.runs.finished import classifier_of
from train.validation import ConfigError


def classify(
    checkpoint: tyro.conf.Positional[Path],
    pictures: tyro.conf.Positional[tuple[Path, ...]],
    /,
) -> list[tuple[Path, str, float]]:
    """Returns the likeliest class of each picture and its probability, 0 to 1.

    Args:
      checkpoint: directory from `python -m train.image`, such as runs/NAME/compact.
      pictures: files; resized and cropped to the size of the training images.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it is damaged or not from a run on images, or a file is not a picture.
    """
    if not pictures:
        raise ConfigError("got no picture; expected at least one file.")
    classifier, metadata = classifier_of(checkpoint, needs=("image_shape",))
    if metadata["kind"] != "image":
        raise ConfigError(
            f"{checkpoint} is from a run of kind {metadata['kind']}; expected a checkpoint of "
            "`python -m train.image`."
        )
    spec = metadata["data"]
    shape = tuple(spec["image_shape"])
    images = np.stack([_read(path, shape) for path in pictures])
    logits = jax.jit(classifier.logits)(lcjax.restore(checkpoint), images)
    probabilities = np.asarray(jax.nn.softmax(logits))
    names = spec.get("class_names") or [str(i) for i in range(spec["num_classes"])]
    return [
        (path, names[int(row.argmax())], float(row.max()))
        for path, row in zip(pictures, probabilities, strict=True)
    ]


def _read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    with opened(path, path) as picture:
        return center_crop(picture, shape)
