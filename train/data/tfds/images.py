"""Image sets prepared by TensorFlow Datasets, read by index and without TensorFlow."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lcjax._messages import printable
from train.data.dataset import DataError, Part
from train.data.images.decode_cache import decoded
from train.data.images.splits import EDGE, ImageSet, Split, StreamedSplit
from train.data.tfds.builder import Prepared

_LARGEST_EDGE = 2**14


def tfds_images(
    directory: Path,
    *,
    image_size: int | None = None,
    in_memory: bool | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Returns a prepared image-classification set.

    Its "test" is the set's test split, or its validation split if there is no other or the test
    labels are withheld (ImageNet).

    Args:
      directory: of one version of the set, with its features.json.
      image_size: edge of the images in pixels; by default the stored size, 224 if sizes vary.
      in_memory: whether to load splits; by default those under 2 GB with pictures of one size.
      limit: read only the first rows of each split, this many.

    Raises:
      DataError: if it has no labelled 8-bit images, no split to test on, or files are missing or of
        a format without random access.
    """
    prepared = Prepared(directory)
    image = _image(prepared)

    def read(part: Part) -> Split | StreamedSplit:
        name = "train" if part == "train" else prepared.held_out()
        rows = TfdsRows(prepared, image, name, limit)
        *stored, channels = prepared.features[image].shape
        varied = None in stored
        height, width = (image_size or edge or EDGE for edge in stored)
        split = StreamedSplit(rows, np.arange(len(rows)), (height, width, channels), varied)
        if split.is_small if in_memory is None else in_memory:
            return decoded(split, f"{prepared.name}/{name}", prepared.files(name))
        return split

    return ImageSet(prepared.name, prepared.class_names, read)


def _image(prepared: Prepared) -> str:
    """Returns the name of the image feature to classify."""
    import tensorflow_datasets as tfds

    images = prepared.named(tfds.features.Image)
    if not images or not prepared.label or "train" not in prepared.splits:
        raise DataError(
            f"{prepared.directory}: {prepared.name} is not a set of labelled images: its features "
            f"are {list(prepared.features)}, its splits {prepared.splits}; expected an image, a "
            "class label and a train split."
        )
    name = "image" if "image" in images else images[0]
    feature = prepared.features[name]
    *edges, channels = feature.shape
    if feature.np_dtype != np.uint8 or len(edges) != 2 or channels not in (1, 3, 4):
        raise DataError(
            f"{prepared.directory}: images of {prepared.name} are {feature.np_dtype} of shape "
            f"{feature.shape}; expected uint8 with 1, 3 or 4 channels."
        )
    if any(edge is not None and not 1 <= edge <= _LARGEST_EDGE for edge in edges):
        raise DataError(
            f"{prepared.directory}: images of {prepared.name} have edges of {edges} pixels; "
            f"expected 1 to {_LARGEST_EDGE}. Prepare the set again."
        )
    return name


class TfdsRows:
    """Pictures and labels of one split, by index; implements `train.data.images.splits.Rows`."""

    def __init__(self, prepared: Prepared, image: str, split: str, limit: int | None):
        """Opens a split; `image` is the name of the picture's feature."""
        self._source = prepared.source(split, limit)
        self._prepared = prepared
        self._image = image
        self._split = split

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self._row(self._source[index])

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows; faster than one by one."""
        return [self._row(record) for record in self._source.__getitems__(indices)]

    def _row(self, record: dict[str, Any]) -> tuple[Image.Image, int]:
        label = self._prepared.check_label(record[self._prepared.label], self._split)
        try:
            return Image.open(BytesIO(record[self._image])), label
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self._prepared.directory}, split {self._split}: an image cannot be read: "
                f"{printable(error, longest=100)}. Prepare the set again with TFDS."
            ) from error
