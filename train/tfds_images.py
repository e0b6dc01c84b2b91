"""Image sets prepared by TensorFlow Datasets, read by index and without TensorFlow."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.decoded import decoded
from train.splits import DataError, ImageSet, Part, Split, StreamedSplit

# Where pictures vary in size and none is asked for: ImageNet's usual edge in pixels.
_EDGE = 224
_IN_MEMORY_BYTES = 2e9


def tfds_images(
    directory: Path,
    *,
    image_size: int | None = None,
    in_memory: bool | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Returns a prepared image-classification set.

    Its "test" is the set's own test split, or its validation split where there is no other or the
    test labels are withheld (ImageNet).

    Args:
      directory: of one version of the set, with its features.json.
      image_size: edge of the images in pixels; by default as they are stored, 224 if they vary.
      in_memory: by default splits under 2 GB whose pictures are all of one size are.
      limit: if given, read only the first so many rows of either split.

    Raises:
      DataError: when it holds no labelled 8-bit images, no split to test on, or files are not there
        or of a format without random access.
    """
    prepared = _Prepared(directory)

    def read(part: Part) -> Split | StreamedSplit:
        name = "train" if part == "train" else prepared.held_out()
        rows = prepared.rows(name, limit)
        *stored, channels = prepared.shape
        varied = None in stored
        height, width = (image_size or edge or _EDGE for edge in stored)
        split = StreamedSplit(rows, np.arange(len(rows)), (height, width, channels), varied)
        small = not varied and len(rows) * height * width * channels < _IN_MEMORY_BYTES
        if small if in_memory is None else in_memory:
            return decoded(split, f"{prepared.name}/{name}", prepared.files(name))
        return split

    return ImageSet(prepared.name, prepared.class_names, read)


class _Prepared:
    """A set's directory, opened: name, (height, width, channels) or None for each, classes."""

    def __init__(self, directory: Path):
        import tensorflow_datasets as tfds

        self._directory = directory
        self._builder: Any = tfds.builder_from_directory(directory)
        self._splits = self._builder.info.splits
        self.name = self._builder.info.full_name
        features = self._builder.info.features
        self._image = _feature(features, tfds.features.Image, "image")
        self._label = _feature(features, tfds.features.ClassLabel, "label")
        if not self._image or not self._label or "train" not in self._splits:
            raise DataError(
                f"{directory}: {self.name} is not a set of labelled images: its features are "
                f"{list(features)}, its splits {list(self._splits)}; wanted an image, a class "
                "label and a train split."
            )
        image = features[self._image]
        if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3, 4):
            raise DataError(
                f"{directory}: images of {self.name} are {image.np_dtype} of shape {image.shape}; "
                "wanted uint8 with 1, 3 or 4 channels."
            )
        self.shape = image.shape
        self.class_names = tuple(features[self._label].names)

    def held_out(self) -> str:
        for split in ("test", "validation"):
            if split in self._splits and self._source(split, 1)[0][self._label] >= 0:
                return split  # withheld labels are -1
        raise DataError(
            f"{self._directory}: {self.name} has splits {list(self._splits)}; wanted a labelled "
            "test or validation split beside train."
        )

    def files(self, split: str) -> list[Path]:
        return [Path(path) for path in self._splits[split].filepaths]

    def rows(self, split: str, limit: int | None) -> "TfdsRows":
        source = self._source(split, limit)
        where = f"{self._directory}, split {split}"
        return TfdsRows(source, self._image, self._label, len(self.class_names), where)

    def _source(self, split: str, limit: int | None) -> Any:
        import tensorflow_datasets as tfds

        missing = [path for path in self.files(split) if not path.is_file()]
        if missing:
            raise DataError(f"{missing[0]} is not there. Prepare {self.name} again with TFDS.")
        count = self._splits[split].num_examples
        instruction = f"{split}[:{min(limit, count)}]" if limit else split
        try:
            return self._builder.as_data_source(
                split=instruction, decoders={self._image: tfds.decode.SkipDecoding()}
            )
        except NotImplementedError as error:
            raise DataError(
                f"{self._directory}: {self.name} is stored as "
                f"{self._builder.info.file_format.value}, which has no random access. Prepare it "
                "again with --file_format array_record."
            ) from error


def _feature(features: Any, kind: type, preferred: str) -> str:
    names = [name for name in features if isinstance(features[name], kind)]
    return preferred if preferred in names else next(iter(names), "")


class TfdsRows:
    """One split's pictures and labels, by index; satisfies `train.splits.Rows`."""

    def __init__(self, source: Any, image: str, label: str, num_classes: int, where: str):
        """Takes a data source whose images are left encoded, and the names of two features."""
        self._source = source
        self._features = image, label
        self._num_classes = num_classes
        self._where = where

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self._row(self._source[index])

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows, faster than one by one."""
        return [self._row(record) for record in self._source.__getitems__(indices)]

    def _row(self, record: dict[str, Any]) -> tuple[Image.Image, int]:
        image, label = (record[name] for name in self._features)
        if not 0 <= label < self._num_classes:
            raise DataError(
                f"{self._where}: a label is {label}; wanted 0 to {self._num_classes - 1}, for "
                f"{self._num_classes} classes. Prepare the set again with TFDS."
            )
        return Image.open(BytesIO(image)), int(label)
