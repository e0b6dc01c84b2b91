"""Sets stored as arrays: scikit-learn's digits, and Fashion-MNIST from Debian's package."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from train.data.dataset import DataError, Part
from train.data.images.splits import ImageSet, Split

# Directory of the four files in Debian's package dataset-fashion-mnist.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IDX_STEMS = {"train": "train", "test": "t10k"}
_TEN_DIGITS = tuple("0123456789")


def digits() -> ImageSet:
    """Returns scikit-learn's digits: 1,797 images of 8x8 pixels with 17 gray levels, 10 classes.

    The test split is a fixed, stratified fifth: 360 images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    def read(part: Part) -> Split:
        images, labels = load_digits(return_X_y=True)
        images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
        )
        chosen = train if part == "train" else test
        return Split(images[chosen], np.asarray(labels)[chosen].astype(np.int32))

    return ImageSet("digits", _TEN_DIGITS, read)


def idx_files(name: str, directory: Path) -> ImageSet | None:
    """Returns a set in MNIST's format, four gzipped idx files; None if one is missing."""
    paths = {
        (part, kind): directory / f"{stem}-{kind}-ubyte.gz"
        for part, stem in _IDX_STEMS.items()
        for kind in ("images-idx3", "labels-idx1")
    }
    if not all(path.is_file() for path in paths.values()):
        return None

    def read(part: Part) -> Split:
        images = read_idx(paths[part, "images-idx3"])
        labels = read_idx(paths[part, "labels-idx1"])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{directory}: {part} images have shape {images.shape} and labels {labels.shape}; "
                "expected (count, height, width) and (count,). Install the files again."
            )
        return Split(images[..., None], labels.astype(np.int32))

    return ImageSet(name, _TEN_DIGITS, read)


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array in a gzipped idx file.

    Raises:
      DataError: if the file is damaged or of another format; names it.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Install the file again.") from error
    # Two zero bytes, 8 for unsigned bytes, the number of axes; then the size of each in 4 bytes.
    axes = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = np.frombuffer(raw[4:start], ">u4").tolist() if len(raw) >= start else []
    if not shape or len(raw) != start + math.prod(shape):
        raise DataError(f"{path} is not a complete idx file of bytes. Install the file again.")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
