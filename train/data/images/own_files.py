"""Image sets of one's own: a folder of pictures by class, or NumPy arrays in an .npz file."""

import itertools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lcjax._messages import printable
from lcjax.tree.paths import natural_sort_key
from train.data.dataset import DataError, Part
from train.data.images.pictures import Size, common_size, opened, size_of, test_rows
from train.data.images.splits import EDGE, ImageSet, Split, StreamedSplit

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})
_KEYS = {
    "train": (("images", "labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def own_path(name: str) -> Path | None:
    """Returns the folder or the .npz file that a name is the path of; None for other names.

    Args:
      name: a path with a slash or one that ends in .npz, or any after "folder:".

    Raises:
      DataError: a path at which there is nothing.
    """
    path = Path(name.removeprefix("folder:")).expanduser()
    written_so = name.startswith((".", "~", "/", "folder:")) or name.endswith(".npz")
    if path.exists() and (written_so or "/" in name):
        return path
    if written_so:
        raise DataError(
            f"{name}: got a path at which there is nothing; expected a folder with a folder of "
            "pictures for each class, or an .npz file with images and labels."
        )
    return None


def own_images(
    path: Path, *, image_size: int | None = None, in_memory: bool | None = None
) -> ImageSet:
    """Returns the set of a folder or of an .npz file; arguments as of `picture_folder`."""
    if path.is_file():
        return arrays_file(path)
    return picture_folder(path, image_size=image_size, in_memory=in_memory)


def picture_folder(
    folder: Path, *, image_size: int | None = None, in_memory: bool | None = None
) -> ImageSet:
    """Returns a folder of pictures, with a folder for each class.

    With `train/CLASS/` and `test/CLASS/` these are the splits; with `CLASS/` alone a fixed,
    stratified fifth is the test split.

    Args:
      folder: its path.
      image_size: edge of the images in pixels; by default the stored size, 224 if sizes vary.
      in_memory: whether to read splits into memory; by default small ones of one size.

    Raises:
      DataError: no classes, a class of one split only, a class without pictures, or a file that is
        not a picture of at most 8 bits a channel.
    """
    if (folder / "train").is_dir():
        if not (folder / "test").is_dir():
            raise DataError(f"{folder}: got train without test; expected both, or neither.")
        names = _classes(folder / "train")
        if unknown := sorted(set(_classes(folder / "test")) - set(names)):
            raise DataError(
                f"{folder / 'test' / unknown[0]}: got a class that train lacks; expected the "
                f"classes {printable(', '.join(names), longest=200)}."
            )
        found = {part: _pictures(folder / part, names) for part in ("train", "test")}
    else:
        names = _classes(folder)
        found = _divided(_pictures(folder, names), folder)
    shape, varied = common_size(_sizes(found.values()), image_size, EDGE)

    def read(part: Part) -> Split | StreamedSplit:
        rows = PictureRows(found[part])
        split = StreamedSplit(rows, np.arange(len(rows)), shape, varied)
        return split.loaded() if (split.is_small if in_memory is None else in_memory) else split

    return ImageSet(folder.resolve().name, names, read)


def arrays_file(path: Path) -> ImageSet:
    """Returns a set of arrays in an .npz file.

    It has `images` and `labels`, and `test_images` and `test_labels`, or `x_train`, `y_train`,
    `x_test` and `y_test`. Images are uint8 (count, height, width) or (count, height, width,
    channels), labels whole numbers from 0. Without a test split a fixed, stratified fifth is it.

    Raises:
      DataError: arrays that are missing or have other shapes or dtypes.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: got no .npz file of arrays: {printable(error)}.") from error
    train, test = _arrays(arrays, "train", path), _arrays(arrays, "test", path)
    if train is None:
        raise DataError(
            f"{path}: got the arrays {printable(', '.join(arrays) or 'none')}; expected images and "
            "labels, or x_train and y_train."
        )
    if test is None:
        chosen = test_rows(train.labels.tolist(), path)
        train, test = train.take(np.flatnonzero(~chosen)), train.take(np.flatnonzero(chosen))
    splits = {"train": train, "test": test}
    classes = 1 + max(int(split.labels.max()) for split in splits.values())
    return ImageSet(path.stem, tuple(map(str, range(classes))), splits.__getitem__)


class PictureRows:
    """Pictures in files with their labels; implements `train.data.images.splits.Rows`."""

    def __init__(self, rows: Sequence[tuple[Path, int]]):
        """Takes the path and the label of each picture; none is opened."""
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._rows[index]
        with opened(path, path) as picture:
            picture.load()
            return picture, label

    def many(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """Returns several rows."""
        return [self[index] for index in indices]


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(
        (each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != "."),
        key=natural_sort_key,
    )
    if len(names) < 2:
        raise DataError(
            f"{folder}: got {len(names)} folders; expected one for each of at least two classes, "
            "with the pictures in it."
        )
    return tuple(names)


def _pictures(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(names):
        paths = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in _SUFFIXES
        )
        if not paths:
            raise DataError(f"{folder / name}: got no pictures; expected PNG, JPEG or similar.")
        found += [(path, label) for path in paths]
    return found


def _sizes(parts: Iterable[Sequence[tuple[Path, int]]]) -> set[Size]:
    found = set()
    for path, _ in itertools.chain(*parts):
        with opened(path, path) as picture:
            found.add(size_of(picture))
    return found


def _divided(rows: Sequence[tuple[Path, int]], folder: Path) -> dict[str, list[tuple[Path, int]]]:
    chosen = test_rows([label for _, label in rows], folder)
    return {
        "train": [row for row, test in zip(rows, chosen, strict=True) if not test],
        "test": [row for row, test in zip(rows, chosen, strict=True) if test],
    }


def _arrays(arrays: Mapping[str, np.ndarray], part: Part, path: Path) -> Split | None:
    for names in _KEYS[part]:
        if all(name in arrays for name in names):
            images, labels = (arrays[name] for name in names)
            break
    else:
        return None
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise DataError(
            f"{path}, {names[0]}: got {images.dtype} of shape {images.shape}; expected uint8 "
            "(count, height, width) or (count, height, width, 1, 3 or 4)."
        )
    labels = labels.reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images) or not len(labels):
        raise DataError(
            f"{path}, {names[1]}: got {labels.dtype} of {len(labels)} rows for {len(images)} "
            "images; expected a whole number from 0 for each image."
        )
    return Split(images, labels.astype(np.int32))
