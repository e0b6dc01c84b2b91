"""Image-classification data: three splits of uint8 images, in memory or streamed from disk."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from train.data.dataset import LabelledData, cut
from train.data.images import in_memory as array_sets
from train.data.images.splits import (
    DataError,
    ImageSet,
    Part,
    Split,
    StreamedSplit,
    channel_moments,
)
from train.data.tfds.locate import data_directory, locate, prepare

_THREADS = 16


@dataclasses.dataclass(frozen=True)
class ImageData(LabelledData):
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
      class_names: one a class.
    """

    train: Split | StreamedSplit
    validation: Split | StreamedSplit
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What the images are, in words."""
        return f"{'×'.join(map(str, self.image_shape))}, {self.num_classes} classes"

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image."""
        return jax.ShapeDtypeStruct(self.image_shape, np.uint8)

    @property
    def each(self) -> str:
        """What one input is."""
        return "an image"

    @property
    def in_memory(self) -> bool:
        """Whether the splits are arrays (`Split`), to be indexed by `epoch_order`."""
        return isinstance(self.train, Split)


def load(
    name: str = "digits",
    *,
    data_dir: str | Path | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_memory: bool | None = None,
    limit: int | None = None,
) -> ImageData:
    """Loads a set of labelled images by name.

    Args:
      name: "digits", or a TFDS image-classification set: "cifar10", "name:version", "name/config".
        Without a TFDS copy, "fashion_mnist" is also found as Debian's package installs it.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      validation: below 1, the part of the training split that is held out; else, how many images.
      split_seed: fixes the cut between training and validation.
      num_classes: if given, how many classes are expected; others raise.
      image_size: edge to which images are resized and cropped; by default they stay as they are,
        or are cut to 224 where their sizes vary.
      in_memory: True or False to insist; by default a split is held in memory when its images are
        of one size and it takes under 2 GB. Sets that come as arrays always are.
      limit: if given, read only the first so many images of either stored split.

    Raises:
      DataError: when the set is not there or does not match what was asked.
    """
    images = _find(name, data_dir, image_size, in_memory, limit)
    classes = len(images.class_names)
    if num_classes not in (None, classes):
        raise DataError(
            f"{images.name}: num_classes is {num_classes}, but its labels have {classes} classes. "
            f"Give {classes}, or leave it out."
        )

    def read(part: Part) -> Split | StreamedSplit:
        split = images.read(part)
        if isinstance(split, Split):
            split = split.take(np.arange(len(split))[:limit])
            if image_size and split.images.shape[1:3] != (image_size, image_size):
                split = split.resized(image_size)
            _check_labels(split.labels, classes, f"{images.name}, {part}")
        return split

    train, held_out = cut(read("train"), validation, split_seed, images.name, "images")
    mean, std = channel_moments(train)
    return ImageData(
        name=images.name,
        train=train,
        validation=held_out,
        test=lambda: read("test"),
        num_classes=classes,
        image_shape=train[0][0].shape,
        mean=mean,
        std=std,
        class_names=images.class_names,
    )


def _find(
    name: str,
    data_dir: str | Path | None,
    image_size: int | None,
    in_memory: bool | None,
    limit: int | None,
) -> ImageSet:
    if name == "digits":
        return array_sets.digits()
    root = data_directory(data_dir)
    directory, beside = locate(name, root), ""
    if directory is None and name == "fashion_mnist":
        if debian := array_sets.idx_files(name, array_sets.DEBIAN_FASHION_MNIST):
            return debian
        beside = " On Debian, `apt install dataset-fashion-mnist` will do."
    if directory is None:
        directory = prepare(name, root, beside=beside)
    from train.data.tfds.images import tfds_images  # imports TFDS, which digits does without

    return tfds_images(directory, image_size=image_size, in_memory=in_memory, limit=limit)


def _check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where}: labels reach from {labels.min()} to {labels.max()}; wanted 0 to "
            f"{classes - 1}, for {classes} classes. Prepare the set again."
        )


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """Returns an epoch's batches as indices: int32 (count // batch_size, batch_size).

    A permutation that depends on seed and epoch alone; the remainder is dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = count // batch_size
    return rng.permutation(count)[: steps * batch_size].astype(np.int32).reshape(steps, batch_size)


def stream(
    split: Split | StreamedSplit,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields shuffled training batches without end: uint8 images and int32 labels.

    An epoch has len(split) // batch_size steps. What step n yields, order and random crops,
    depends on seed and n alone, so training resumes at any `start_step`.

    Args:
      split: of images.
      batch_size: of the whole batch.
      seed: of order and crops.
      start_step: which batch comes first.
      rows: which rows of every batch to yield, ascending; None for all. The others are not read.

    Raises:
      DataError: when the split holds fewer images than one batch.
    """
    per_epoch = len(split) // batch_size * batch_size
    if not per_epoch:
        raise DataError(f"batch_size is {batch_size}; wanted at most the {len(split)} images held.")

    def sample(index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        return split.sample(index, rng) if isinstance(split, StreamedSplit) else split[index]

    order = grain.MapDataset.range(len(split)).seed(seed).shuffle()[:per_epoch].repeat()
    samples = order.random_map(sample)[start_step * batch_size :]
    if rows is None or len(rows) == batch_size:
        return _read_ahead(samples, batch_size)
    return _read_ahead(grain.MapDataset.source(_Rows(samples, batch_size, rows)), len(rows))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some rows of every batch of a data set, one after another."""

    samples: grain.MapDataset
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        batch, row = divmod(index, len(self.rows))
        found: Any = self.samples[batch * self.batch_size + int(self.rows[row])]
        return found


def batches(
    split: Split | StreamedSplit, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, in order, in batches of one size: uint8 images and int32 labels.

    The last batch is filled up with zero images whose label is -1, which evaluation leaves out.
    """
    if isinstance(split, Split):
        starts = range(0, len(split), batch_size)
        parts = ((split.images[i:][:batch_size], split.labels[i:][:batch_size]) for i in starts)
    else:
        order = grain.MapDataset.range(len(split))
        parts = _read_ahead(order.map(split.__getitem__), batch_size)
    for images, labels in parts:
        missing = batch_size - len(labels)
        if missing:
            images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            labels = np.pad(labels, (0, missing), constant_values=-1)
        yield images, labels


def _read_ahead(rows: grain.MapDataset, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=2 * batch_size)
    return iter(rows.to_iter_dataset(options).batch(batch_size))
