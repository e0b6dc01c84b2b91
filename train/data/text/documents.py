"""Running text in a file, or prepared by TensorFlow Datasets."""

import dataclasses
from pathlib import Path

from train.data.dataset import DataError
from train.data.text.files import read_text
from train.data.tfds.locate import data_directory, locate, prepare

Documents = list[str]


@dataclasses.dataclass(frozen=True)
class DocumentSet:
    """A set of documents, at least one per split.

    Attributes:
      name: of the set, with its version if it has one.
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

    A missing split is taken from the end of the training split: first test, then validation. A
    single document is divided by characters, several are by documents.

    Args:
      name: the path of a UTF-8 text file, or a TFDS set with a text, such as tiny_shakespeare.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      validation: fraction of the training split to hold out if there is no validation split.
      test: likewise for testing.

    Raises:
      DataError: if the set does not exist, is empty, or has no text.
    """
    path = Path(name)
    if path.is_file() or path.suffix:
        splits, name = {"train": [_read(path)]}, str(path)
    else:
        root = data_directory(data_dir)
        directory = locate(name, root, others="the path of a text file") or prepare(name, root)
        from train.data.tfds.documents import (
            tfds_documents,  # imports TFDS, which files do not need
        )

        name, splits = tfds_documents(directory)
    for part, fraction in (("test", test), ("validation", validation)):
        if part not in splits:
            splits["train"], splits[part] = _divide(splits["train"], fraction)
    for part, documents in splits.items():
        if not any(document.strip() for document in documents):
            raise DataError(f"{name}: the text to {_USES[part]} is empty; expected a longer one.")
    return DocumentSet(name, **splits)


_USES = {"train": "train on", "validation": "validate", "test": "test on"}


def _read(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty; expected a text to learn from.")
    return text


def _divide(documents: Documents, fraction: float) -> tuple[Documents, Documents]:
    """Returns the rest of the documents, and a fraction taken from their end."""
    if len(documents) > 1:
        kept = len(documents) - max(1, round(fraction * len(documents)))
        return documents[:kept], documents[kept:]
    (document,) = documents
    kept = len(document) - round(fraction * len(document))
    return [document[:kept]], [document[kept:]]
