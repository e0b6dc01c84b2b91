"""Labelled texts in a TSV file, or prepared by TensorFlow Datasets."""

from pathlib import Path

import numpy as np

from lcjax._messages import printable
from lcjax.tree.paths import natural_sort_key
from train.data.dataset import DataError, Part
from train.data.text.files import read_text
from train.data.text.types import Texts, TextSet
from train.data.tfds.locate import data_directory, locate, prepare

_HEADERS = ("text\tlabel", "sentence\tlabel")


def find_texts(
    name: str, *, data_dir: str | Path | None = None, test_file: Path | None = None
) -> TextSet:
    """Returns a set of labelled texts by name.

    Args:
      name: a TFDS text-classification set, "glue/sst2", or the path of a TSV file, "reviews.tsv":
        on every line a text, a tab and its label. A first line "text<TAB>label" or
        "sentence<TAB>label" is a header.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      test_file: TSV file to test on, for a set that is one; by default a fixed, stratified fifth
        of the set is.

    Raises:
      DataError: when the set is not there, or is not one of labelled texts.
    """
    if Path(name).suffix == ".tsv" or Path(name).is_file():
        return _tsv_set(Path(name), test_file)
    if test_file is not None:
        raise DataError(
            f"--test-file is {test_file}, but {name!r} has its own test split; expected a "
            "--dataset that is a .tsv file too."
        )
    root = data_directory(data_dir)
    directory = locate(name, root, others="a .tsv file") or prepare(name, root)
    from train.data.tfds.texts import tfds_texts  # imports TFDS, which TSV files do not need

    return tfds_texts(directory)


def _tsv_set(path: Path, test_file: Path | None) -> TextSet:
    rows = _read_tsv(path)
    class_names = tuple(sorted({label for _, label in rows.values()}, key=natural_sort_key))
    if len(class_names) < 2:
        raise DataError(
            f"{path}: every label is {class_names}; expected at least two different ones."
        )
    whole = _numbered(path, rows, class_names)
    test = _every_fifth(whole.labels)
    if test_file is None and not len(test):
        raise DataError(
            f"{path}: {len(whole)} texts are too few for a test split; give a --test-file."
        )

    def read(part: Part) -> Texts:
        if test_file is None:
            return whole.take(test if part == "test" else np.setdiff1d(np.arange(len(whole)), test))
        if part == "test":
            return _numbered(test_file, _read_tsv(test_file), class_names)
        return whole

    tested_on = "a fixed fifth of the file" if test_file is None else str(test_file)
    return TextSet(str(path), class_names, read, tested_on)


def _read_tsv(path: Path) -> dict[int, tuple[str, str]]:
    """Returns text and label by line number."""
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = {}
    for number, line in enumerate(lines, 1):
        if number == 1 and line.strip() in _HEADERS:
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            what = "the text is empty" if len(fields) == 2 and not fields[0] else repr(line[:60])
            raise DataError(f"{path}, line {number}: {what}; expected a text, a tab and a label.")
        rows[number] = (fields[0], fields[1])
    if not rows:
        raise DataError(f"{path} has no texts; expected lines of a text, a tab and a label.")
    return rows


def _numbered(path: Path, rows: dict[int, tuple[str, str]], class_names: tuple[str, ...]) -> Texts:
    known = {name: label for label, name in enumerate(class_names)}
    for number, (_, label) in rows.items():
        if label not in known:
            raise DataError(
                f"{path}, line {number}: the label is {label[:60]!r}; expected one of "
                f"{printable(class_names, longest=300)}."
            )
    texts = np.array([text for text, _ in rows.values()], object)
    return Texts(texts, np.array([known[label] for _, label in rows.values()], np.int32))


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    """Returns a fixed fifth of the indices of every class, in order."""
    order = np.random.default_rng(0).permutation(len(labels))
    of_class = (order[labels[order] == label] for label in np.unique(labels))
    return np.sort(np.concatenate([mine[: (len(mine) + 2) // 5] for mine in of_class]))
