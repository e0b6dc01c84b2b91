"""Sets of texts prepared by TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from train.data.dataset import DataError, Part
from train.data.text.types import Texts, TextSet
from train.data.tfds.builder import Prepared, text_of

_PREFERRED = ("text", "sentence")
_CHUNK = 10_000


def tfds_texts(directory: Path) -> TextSet:
    """Returns a prepared text-classification set.

    Its "test" is the set's test split, or its validation split if there is no other or the test
    labels are withheld (GLUE). Empty texts are kept; the model sees their special tokens only.

    Args:
      directory: of one version of the set, with its features.json.

    Raises:
      DataError: if it does not have one text and a label, has no split to test on, or files are
        missing or of a format without random access.
    """
    prepared = Prepared(directory)
    feature, held_out = _text(prepared), prepared.held_out()
    tested_on = "its test split"
    if held_out != "test":
        tested_on = f"its {held_out} split, as it has no test split with labels"

    def read(part: Part) -> Texts:
        return _read(prepared, "train" if part == "train" else held_out, feature)

    return TextSet(prepared.name, prepared.class_names, read, tested_on)


def _text(prepared: Prepared) -> str:
    """Returns the name of the text feature to classify."""
    import tensorflow_datasets as tfds

    texts = prepared.named(tfds.features.Text)
    found = [name for name in _PREFERRED if name in texts] or texts
    if len(found) != 1 or not prepared.label or "train" not in prepared.splits:
        raise DataError(
            f"{prepared.directory}: {prepared.name} is not a set of labelled texts: its features "
            f"are {list(prepared.features)}, its splits {prepared.splits}; expected one text, a "
            "class label and a train split."
        )
    return found[0]


def _read(prepared: Prepared, split: str, feature: str) -> Texts:
    source = prepared.source(split)
    texts, labels = np.empty(len(source), object), np.empty(len(source), np.int32)
    with tqdm(
        total=len(source), desc=f"reading {prepared.name}/{split}", unit=" texts", disable=None
    ) as bar:
        for start in range(0, len(source), _CHUNK):
            chosen = range(start, min(start + _CHUNK, len(source)))
            for i, row in zip(chosen, source.__getitems__(list(chosen)), strict=True):
                texts[i] = text_of(row[feature], prepared, split)
                labels[i] = prepared.check_label(row[prepared.label], split)
            bar.update(len(chosen))
    return Texts(texts, labels)
