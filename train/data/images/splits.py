"""One split of a labelled image set: arrays in memory, or rows decoded as they are asked for."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageOps

Part = Literal["train", "test"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What evaluation leaves off each edge where training crops at random: the usual central 7/8.
_BLEED = 1 / 16


class DataError(ValueError):
    """A data set is not there, is not one of labelled images, or does not match what was asked."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A split held in memory.

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
        """Returns the split that holds these rows, copied."""
        return Split(self.images[indices], self.labels[indices])

    def resized(self, size: int) -> "Split":
        """Returns the same split with images of size x size pixels."""
        shape = (size, size, self.images.shape[-1])
        flat = self.images[..., 0] if shape[-1] == 1 else self.images
        images = [fit(Image.fromarray(image), shape) for image in flat]
        return Split(np.stack(images), self.labels)


class Rows(Protocol):
    """Random access to pictures as they are stored, each with its label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows, faster than one by one."""
        ...


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """A split whose images are read, decoded and resized one by one.

    Attributes:
      rows: pictures and labels as they are stored.
      indices: which of the rows stand in this split.
      shape: (height, width, channels) of the images that come out.
      varied: whether the stored pictures differ in size. If so, training takes random crops of
        them, and evaluation the central 7/8.
    """

    rows: Rows
    indices: np.ndarray
    shape: tuple[int, int, int]
    varied: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        return self._fit(*self.rows[int(self.indices[index])])

    def many(self, start: int, stop: int) -> list[tuple[np.ndarray, np.int32]]:
        """Returns the rows from start up to stop, faster than one by one."""
        return [self._fit(*row) for row in self.rows.many(self.indices[start:stop].tolist())]

    def _fit(self, picture: Image.Image, label: int) -> tuple[np.ndarray, np.int32]:
        return fit(picture, self.shape, bleed=_BLEED * self.varied), np.int32(label)

    def sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        """Returns a row for training: a random crop where the pictures vary in size."""
        if not self.varied:
            return self[index]
        picture, label = self.rows[int(self.indices[index])]
        height, width, _ = self.shape
        box = random_box(picture.width, picture.height, rng)
        crop = picture.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        return _pixels(crop, self.shape), np.int32(label)

    def take(self, indices: np.ndarray) -> "StreamedSplit":
        """Returns the split that holds these rows."""
        return dataclasses.replace(self, indices=self.indices[indices])


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A set as it is stored, in two splits.

    Attributes:
      name: the set's name, with its version where it has one.
      class_names: one a class, so they tell how many classes there are.
      read: returns either split; nothing of it is read before.
    """

    name: str
    class_names: tuple[str, ...]
    read: Callable[[Part], Split | StreamedSplit]


def fit(picture: Image.Image, shape: tuple[int, int, int], *, bleed: float = 0.0) -> np.ndarray:
    """Returns the picture's centre as uint8 (height, width, channels).

    Resized in proportion until it covers the shape, then cropped.

    Args:
      picture: of any size and mode.
      shape: (height, width, channels) of the result.
      bleed: fraction of the picture that is left off at every edge first.
    """
    height, width, _ = shape
    if picture.size != (width, height) or bleed:
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC, bleed)
    return _pixels(picture, shape)


def _pixels(picture: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    mode = _MODES[shape[-1]]
    if picture.mode != mode:
        picture = picture.convert(mode)
    return np.asarray(picture, np.uint8).reshape(shape)


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Returns (left, upper, right, lower) of a random part of a picture.

    Its area is 8 % to 100 % of the picture's, its aspect ratio 3/4 to 4/3; the largest square in
    the centre, if ten draws do not fit.

    References: Szegedy et al. 2014, arXiv 1409.4842, section 6.
    """
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, upper = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, upper, left + w, upper + h
    edge = min(width, height)
    left, upper = (width - edge) / 2, (height - edge) / 2
    return left, upper, left + edge, upper + edge


def channel_moments(
    split: Split | StreamedSplit, *, at_most: int = 1024
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel of images scaled to [0, 1].

    Args:
      split: read whole if it is in memory.
      at_most: how many images of a streamed split are read, evenly spaced.
    """
    if isinstance(split, StreamedSplit):
        chosen = np.linspace(0, len(split) - 1, min(at_most, len(split))).astype(int)
        images = np.stack([split[i][0] for i in chosen])
    else:
        images = split.images
    total: Any = 0
    squares: Any = 0
    for start in range(0, len(images), 4096):  # in parts: float64 takes eight times the memory
        part = images[start : start + 4096].astype(np.float64) / 255
        total = total + part.sum(axis=(0, 1, 2))
        squares = squares + np.square(part).sum(axis=(0, 1, 2))
    count = math.prod(images.shape[:-1])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1 / 255**2))  # a constant channel has none
    return tuple(mean.tolist()), tuple(std.tolist())
