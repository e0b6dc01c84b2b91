"""Image-classification data: three splits of uint8 images, in memory or streamed from disk."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


class DataError(ValueError):
    """A data set is not there, is not one of labelled images, or does not match what was asked."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, held in memory.

    Attributes:
      images: uint8 (count, height, width, channels).
      labels: int32 (count,), each in [0, num_classes).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A labelled image set, cut in three.

    Attributes:
      name: the set's name, with its version where it has one.
      train: a `Split` in memory, or a `StreamedSplit` where the set is too large for that.
      validation: cut from the training split; fixed by the cut's own seed.
      test: reads the held-out split; a function so that nobody looks before the end.
      num_classes: how many classes there are.
      image_shape: (height, width, channels).
      mean: per channel, of the training images scaled to [0, 1].
      std: per channel, likewise.
      class_names: one a class; empty where the set has none.
    """

    name: str
    train: "Split | StreamedSplit"
    validation: "Split | StreamedSplit"
    test: "Callable[[], Split | StreamedSplit]"
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

    @property
    def in_memory(self) -> bool:
        """Whether the splits are arrays (`Split`), to be indexed by `epoch_order`."""
        return isinstance(self.train, Split)


def load(
    name: str = "digits",
    *,
    data_dir: str | Path | None = None,
    validation: float | int = 0.1,
    split_seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_memory: bool | None = None,
    limit: int | None = None,
) -> ImageData:
    """Loads a set of labelled images by name.

    Args:
      name: "digits", or a TFDS image-classification set: "cifar10", "name:version", "name/config".
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      validation: the part of the training split that is held out, or how many images.
      split_seed: fixes the cut between training and validation.
      num_classes: if given, the classes that are expected; others raise.
      image_size: edge to which streamed images are resized and cropped.
      in_memory: True or False to insist; by default sets under 2 GB are held in memory.
      limit: if given, read only the first so many images of each of the set's splits.

    Raises:
      DataError: when the set is not there or does not match what was asked.
    """
    raise NotImplementedError  # filled in within the hour


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """Returns an epoch's batches as indices: int32 (count // batch_size, batch_size).

    A permutation that depends on seed and epoch alone; the remainder is dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = count // batch_size
    return rng.permutation(count)[: steps * batch_size].astype(np.int32).reshape(steps, batch_size)


def stream(
    split: "Split | StreamedSplit", batch_size: int, *, seed: int, start_step: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields shuffled training batches without end: uint8 images and int32 labels.

    What step n yields depends on seed and n alone, so training resumes at any `start_step`.
    """
    raise NotImplementedError


def batches(
    split: "Split | StreamedSplit", batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, in order, in batches of one size: uint8 images and int32 labels.

    The last batch is filled up with zero images whose label is -1, which evaluation leaves out.
    """
    raise NotImplementedError
