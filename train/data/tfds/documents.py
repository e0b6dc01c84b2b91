"""Running text prepared by TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path

from tqdm import tqdm

from train.data.dataset import DataError
from train.data.tfds.builder import Prepared, text_of

_PREFERRED = ("text", "document", "sentence")
_PARTS = ("train", "validation", "test")
_CHUNK = 10_000


def tfds_documents(directory: Path) -> tuple[str, dict[str, list[str]]]:
    """Returns a prepared set's name, and its documents by split (train, validation, test).

    Labels are ignored.

    Args:
      directory: of one version of the set, with its features.json.

    Raises:
      DataError: if it does not have one text and a train split, or files are missing or of a format
        without random access.
    """
    import tensorflow_datasets as tfds

    prepared = Prepared(directory)
    texts = prepared.named(tfds.features.Text)
    found = [name for name in _PREFERRED if name in texts][:1] or texts
    if len(found) != 1 or "train" not in prepared.splits:
        raise DataError(
            f"{directory}: {prepared.name} is not a set of texts: its features are "
            f"{list(prepared.features)}, its splits {prepared.splits}; expected one text and a "
            "train split."
        )
    parts = [part for part in _PARTS if part in prepared.splits]
    return prepared.name, {part: _read(prepared, part, found[0]) for part in parts}


def _read(prepared: Prepared, split: str, feature: str) -> list[str]:
    source, documents = prepared.source(split), []
    with tqdm(
        total=len(source), desc=f"reading {prepared.name}/{split}", unit=" texts", disable=None
    ) as bar:
        for start in range(0, len(source), _CHUNK):
            chosen = list(range(start, min(start + _CHUNK, len(source))))
            rows = source.__getitems__(chosen)
            documents += [text_of(row[feature], prepared, split) for row in rows]
            bar.update(len(chosen))
    return documents
