"""Image sets of the Hugging Face Hub, read by the package `datasets`."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lcjax._messages import printable
from lcjax._optional import import_optional
from train.data.dataset import DataError, Part
from train.data.images.pictures import Size, common_size, opened, size_of, test_rows
from train.data.images.splits import EDGE, ImageSet, Split, StreamedSplit

PREFIX = "hf:"
_SIZES_READ = 1000  # of a split, evenly spaced


def hugging_face_images(
    name: str, *, image_size: int | None = None, in_memory: bool | None = None
) -> ImageSet:
    """Returns a set of labelled images that `datasets` loads.

    Its "test" is the set's test split, or its validation split if there is no other or the test
    labels are withheld; with a train split alone a fixed, stratified fifth.

    Args:
      name: after the prefix: a name on the Hub, `NAME/CONFIG` of one of its configurations, a
        folder of Parquet files, or one that `save_to_disk` wrote.
      image_size: edge of the images in pixels; by default the stored size, 224 if sizes vary.
      in_memory: whether to read splits into memory; by default small ones of one size.

    Raises:
      ImportError: `datasets` is not installed.
      DataError: it cannot be loaded, or has no labelled images.
    """
    datasets = import_optional(
        "datasets", "Hugging Face data sets need datasets", "lcjax[huggingface]"
    )
    splits = _loaded(datasets, name)
    image, label = _columns(datasets, splits, name)
    undecoded = datasets.Image(decode=False)
    tables = {split: table.cast_column(image, undecoded) for split, table in splits.items()}
    rows = {part: PictureTable(table, image, label, f"{name}, {split}")
            for part, (split, table) in _parts(tables, label, name).items()}  # fmt: skip
    labels = splits["train"].features[label]
    most = 1 + max(int(each.labels.max()) for each in rows.values())
    names = getattr(labels, "names", None) or list(map(str, range(most)))
    sizes = set().union(*(each.sizes() for each in rows.values()))
    shape, varied = common_size(sizes, image_size, EDGE)

    def read(part: Part) -> Split | StreamedSplit:
        split = StreamedSplit(rows[part], np.arange(len(rows[part])), shape, varied)
        return split.loaded() if (split.is_small if in_memory is None else in_memory) else split

    return ImageSet(Path(name).name, tuple(names), read)


class PictureTable:
    """Rows of a table of `datasets`; implements `train.data.images.splits.Rows`."""

    def __init__(self, table: Any, image: str, label: str, name: str):
        """Takes a table with undecoded pictures in the column `image`.

        Raises:
          DataError: labels that are not whole numbers from 0.
        """
        self._table, self._image, self._name = table, image, name
        self.labels = np.asarray(table[label][:])
        if not len(self.labels) or self.labels.dtype.kind not in "iu" or self.labels.min() < 0:
            raise DataError(f"{name}, {label}: got labels that are not whole numbers from 0.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.many([index])[0]

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows."""
        return [(picture.copy(), int(self.labels[i])) for i, picture in self._pictures(indices)]

    def sizes(self) -> set[Size]:
        """Returns the sizes of some pictures, of which only the headers are read."""
        count = min(len(self), _SIZES_READ)
        chosen = np.linspace(0, len(self) - 1, count).astype(int).tolist()
        return {size_of(picture) for _, picture in self._pictures(chosen)}

    def _pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        cells = self._table[list(indices)][self._image]
        for i, cell in zip(indices, cells, strict=True):
            stored = BytesIO(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"])
            with opened(stored, f"{self._name}, row {i}") as picture:
                yield i, picture


def _loaded(datasets: Any, name: str) -> Mapping[str, Any]:
    """Returns the splits of a set."""
    path = Path(name).expanduser()
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)
        if path.is_dir() or name.count("/") < 2:
            return datasets.load_dataset(str(path) if path.is_dir() else name)
        repository, _, config = name.rpartition("/")
        return datasets.load_dataset(repository, config)
    except Exception as error:  # of many libraries below `datasets`
        raise DataError(
            f"{PREFIX}{name}: cannot be loaded by datasets: {printable(error, longest=300)}"
        ) from error


def _columns(datasets: Any, splits: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Returns the names of the columns of pictures and of labels."""
    if "train" not in splits:
        raise DataError(f"{name}: got the splits {', '.join(splits)}; expected a train split.")
    features = splits["train"].features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels += [key for key in ("label", "labels") if key in features and key not in labels]
    if not images or not labels:
        raise DataError(
            f"{name}: got the columns {', '.join(features)}; expected a picture and a class label."
        )
    return images[0], labels[0]


def _parts(tables: Mapping[str, Any], label: str, name: str) -> dict[Part, tuple[str, Any]]:
    """Returns name and table of the training and of the test split."""
    for split in ("test", "validation"):
        if split in tables and min(tables[split][label][:], default=-1) >= 0:
            return {"train": ("train", tables["train"]), "test": (split, tables[split])}
    whole = tables["train"]
    test = test_rows(whole[label][:], name)
    return {
        "train": ("train", whole.select(np.flatnonzero(~test))),
        "test": ("train", whole.select(np.flatnonzero(test))),
    }
