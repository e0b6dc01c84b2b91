"""Running text as it is stored: in a file, or prepared by TensorFlow Datasets."""

import dataclasses
from pathlib import Path

from train.data.images.splits import DataError
from train.data.text.files import read_text
from train.data.tfds.locate import data_directory, locate, prepare

Documents = list[str]


@dataclasses.dataclass(frozen=True)
class DocumentSet:
    """A set of documents, one or more a split.

    Attributes:
      name: the set's name, with its version where it has one.
      train: to train on.
      validation: held out while training.
      test: held out until the end.
    """

    name: str
    train: Documents
    validation: Documents
    test: Documents


def find_documents(
    name: str, *, data_dir: str | Path | None = None, validation: float, test: float
) -> DocumentSet:
    """Returns running text by name.

    A split that a set has not is cut from the end of the training split: first test, then
    validation. Of a single document the cut is by characters, of several by documents.

    Args:
      name: the path of a UTF-8 text file, or a TFDS set with a text, such as tiny_shakespeare.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      validation: the part of the training split to cut off where there is no validation split.
      test: likewise.

    Raises:
      DataError: when it is not there, is empty, or has no text.
    """
    path = Path(name)
    if path.is_file() or path.suffix:
        splits, name = {"train": [_read(path)]}, str(path)
    else:
        root, beside = data_directory(data_dir), "the path of a text file"
        directory = locate(name, root, beside=beside) or prepare(name, root)
        from train.data.tfds.documents import tfds_documents  # imports TFDS, which files do without

        name, splits = tfds_documents(directory)
    for part, fraction in (("test", test), ("validation", validation)):
        if part not in splits:
            splits["train"], splits[part] = _cut(splits["train"], fraction)
    for part, documents in splits.items():
        if not any(document.strip() for document in documents):
            raise DataError(f"{name}: the text to {_USES[part]} is empty; wanted a longer one.")
    return DocumentSet(name, **splits)


_USES = {"train": "train on", "validation": "validate", "test": "test on"}


def _read(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty; wanted a text to learn from.")
    return text


def _cut(documents: Documents, fraction: float) -> tuple[Documents, Documents]:
    """Returns what is left, and the part that is cut off the end."""
    if len(documents) > 1:
        kept = len(documents) - max(1, round(fraction * len(documents)))
        return documents[:kept], documents[kept:]
    (document,) = documents
    kept = len(document) - round(fraction * len(document))
    return [document[:kept]], [document[kept:]]
