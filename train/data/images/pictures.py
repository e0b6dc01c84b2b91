"""Pictures in files and in memory: opening them, and the rows kept for a test split."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from lcjax._messages import printable
from train.data.dataset import DataError

_CHANNELS = {"1": 1, "L": 1}  # by mode of a picture; any other is read as RGB
_TEST_FRACTION = 0.2

Size = tuple[int, int, int]
"""Width, height and channels of a picture."""


@contextmanager
def opened(source: Path | BytesIO, name: object) -> Iterator[Image.Image]:
    """A picture, of which only the header is read; errors inside name it.

    Args:
      source: path of the file, or its bytes.
      name: of the picture in errors.

    Raises:
      DataError: it is not a picture, or has more than 8 bits a channel, which Pillow would clip.
    """
    try:
        with Image.open(source) as picture:
            if picture.mode.startswith(("I", "F")):
                raise DataError(
                    f"{name}: got a picture of mode {picture.mode}, expected at most 8 bits a "
                    "channel. Scale its values to 0 to 255 and save it again."
                )
            yield picture
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be read as a picture: {printable(error)}.") from error


def size_of(picture: Image.Image) -> Size:
    """Returns width, height and channels."""
    return *picture.size, _CHANNELS.get(picture.mode, 3)


def common_size(sizes: set[Size], image_size: int | None, default: int) -> tuple[Size, bool]:
    """Returns (height, width, channels) to which pictures are decoded, and whether they vary.

    Args:
      sizes: of the pictures.
      image_size: edge in pixels, instead of the stored one.
      default: edge in pixels if the pictures vary in size.
    """
    varied = len({size[:2] for size in sizes}) > 1
    width, height = (default, default) if varied else next(iter(sizes))[:2]
    channels = max(channels for *_, channels in sizes)
    return (image_size or height, image_size or width, channels), varied


def test_rows(labels: Sequence[int], name: object) -> np.ndarray:
    """Returns which rows are the test split: a fifth of each class, always the same; bool.

    Raises:
      DataError: a class with too few rows.
    """
    chosen = np.zeros(len(labels), bool)
    rng = np.random.default_rng(0)
    for label in sorted(set(labels)):
        places = np.flatnonzero(np.asarray(labels) == label)
        count = round(_TEST_FRACTION * len(places))
        if not count:
            raise DataError(
                f"{name}: class {label} has {len(places)} images, too few for a test split; "
                "expected at least 3. Add images, or a test split."
            )
        chosen[rng.permutation(places)[:count]] = True
    return chosen
