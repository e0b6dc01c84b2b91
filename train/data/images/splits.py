"""Splits of labelled images: arrays in memory, or rows decoded on access."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from train.data.dataset import Part
from train.data.images.resize import center_crop, random_crop_box, to_pixels

# Default edge in pixels if pictures vary in size: ImageNet's usual one.
EDGE = 224
_IN_MEMORY_BYTES = 2e9
# Margin cropped in evaluation if training crops at random: the usual central 7/8.
_MARGIN = 1 / 16


@dataclasses.dataclass(frozen=True)
class Split:
    """A split in memory.

    Attributes:
      images: uint8 (count, height, width, channels).
      labels: int32 (count,), each in [0, num_classes).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        return self.images[index], self.labels[index]

    def take(self, indices: np.ndarray) -> "Split":
        """Returns a split with copies of these rows."""
        return Split(self.images[indices], self.labels[indices])

    def resized(self, size: int) -> "Split":
        """Returns the split with images of size x size pixels."""
        shape = (size, size, self.images.shape[-1])
        flat = self.images[..., 0] if shape[-1] == 1 else self.images
        images = [center_crop(Image.fromarray(image), shape) for image in flat]
        return Split(np.stack(images), self.labels)


class Rows(Protocol):
    """Random access to stored pictures and their labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows; faster than one by one."""
        ...


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """A split whose images are read, decoded and resized on access.

    Attributes:
      rows: stored pictures and labels.
      indices: indices of this split's rows.
      shape: (height, width, channels) of the decoded images.
      varied: whether the stored pictures differ in size. If so, training uses random crops and
        evaluation the central 7/8.
    """

    rows: Rows
    indices: np.ndarray
    shape: tuple[int, int, int]
    varied: bool

    @property
    def is_small(self) -> bool:
        """Whether it may be read into memory: under 2 GB, of pictures of one size."""
        return not self.varied and len(self) * math.prod(self.shape) < _IN_MEMORY_BYTES

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        return self._crop(*self.rows[int(self.indices[index])])

    def many(self, start: int, stop: int) -> list[tuple[np.ndarray, np.int32]]:
        """Returns the rows in [start, stop); faster than one by one."""
        return [self._crop(*row) for row in self.rows.many(self.indices[start:stop].tolist())]

    def loaded(self) -> Split:
        """Returns the split in memory."""
        images, labels = zip(*self.many(0, len(self)), strict=True)
        return Split(np.stack(images), np.array(labels, np.int32))

    def _crop(self, picture: Image.Image, label: int) -> tuple[np.ndarray, np.int32]:
        return center_crop(picture, self.shape, margin=_MARGIN * self.varied), np.int32(label)

    def sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        """Returns a row for training: a random crop if the pictures vary in size."""
        if not self.varied:
            return self[index]
        picture, label = self.rows[int(self.indices[index])]
        height, width, _ = self.shape
        box = random_crop_box(picture.width, picture.height, rng)
        crop = picture.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        return to_pixels(crop, self.shape), np.int32(label)

    def take(self, indices: np.ndarray) -> "StreamedSplit":
        """Returns the split with these rows."""
        return dataclasses.replace(self, indices=self.indices[indices])


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A stored set of labelled images, in two splits.

    Attributes:
      name: of the set, with its version if it has one.
      class_names: one per class.
      read: returns a split; it is not read before.
    """

    name: str
    class_names: tuple[str, ...]
    read: Callable[[Part], Split | StreamedSplit]


def channel_moments(
    split: Split | StreamedSplit, *, at_most: int = 1024
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel of images scaled to [0, 1].

    Args:
      split: a split in memory is read whole.
      at_most: number of images of a streamed split that are read, evenly spaced.
    """
    if isinstance(split, StreamedSplit):
        chosen = np.linspace(0, len(split) - 1, min(at_most, len(split))).astype(int)
        images = np.stack([split[i][0] for i in chosen])
    else:
        images = split.images
    total: Any = 0
    squares: Any = 0
    for start in range(0, len(images), 4096):  # in chunks: float64 takes eight times the memory
        part = images[start : start + 4096].astype(np.float64) / 255
        total = total + part.sum(axis=(0, 1, 2))
        squares = squares + np.square(part).sum(axis=(0, 1, 2))
    count = math.prod(images.shape[:-1])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1 / 255**2))  # constant channels
    return tuple(mean.tolist()), tuple(std.tolist())
