"""Crops of pictures, resized to the shape of a data set's images."""

import math

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def center_crop(
    picture: Image.Image, shape: tuple[int, int, int], *, margin: float = 0.0
) -> np.ndarray:
    """Returns the centre of a picture as uint8 (height, width, channels).

    The picture is resized until it covers the shape, keeping its aspect ratio, then cropped.

    Args:
      picture: of any size and mode.
      shape: (height, width, channels) of the result.
      margin: fraction of the picture to remove at every edge first.
    """
    height, width, _ = shape
    if picture.size != (width, height) or margin:
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC, margin)
    return to_pixels(picture, shape)


def to_pixels(picture: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns a picture of this size as uint8 (height, width, channels)."""
    mode = _MODES[shape[-1]]
    if picture.mode != mode:
        picture = picture.convert(mode)
    return np.asarray(picture, np.uint8).reshape(shape)


def random_crop_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Returns (left, upper, right, lower) of a random crop of a picture.

    Its area is 8 % to 100 % of the picture's, its aspect ratio 3/4 to 4/3. If ten draws do not fit,
    it is the largest square in the centre.

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
