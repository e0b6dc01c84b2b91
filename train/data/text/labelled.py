"""Text-classification data: three splits of tokens."""

import dataclasses
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from train.data.dataset import DataError, Dataset, hold_out
from train.data.text.length_buckets import TextSplit, usable_lengths
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import find_texts
from train.data.text.types import Texts
from train.validation import ConfigError

# Determines which texts are held out, and which are selected.
_SEED = 0


@dataclasses.dataclass(frozen=True)
class TextData(Dataset):
    """A labelled set of texts, in three splits.

    Attributes:
      train: a `TextSplit`.
      validation: held out of the training split.
      test: reads the test split.
      class_names: one per class.
      lengths: lengths that texts are padded to, ascending.
      tested_on: a description of the test split.
    """

    train: TextSplit
    validation: TextSplit
    class_names: tuple[str, ...]
    lengths: tuple[int, ...]
    tested_on: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def about(self) -> str:
        """A description of the texts."""
        lengths = ", ".join(map(str, self.lengths))
        return (
            f"{self.num_classes} classes, texts padded to {lengths} tokens; tested on "
            f"{self.tested_on}"
        )

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one text, of the length that most training tokens have."""
        return jax.ShapeDtypeStruct((self._main_length,), np.int32)

    @property
    def each(self) -> str:
        """Name of one input."""
        return f"a text of {self._main_length} tokens"

    @property
    def _main_length(self) -> int:
        counts = np.bincount(self.train.buckets, minlength=len(self.lengths))
        return self.lengths[(counts * self.lengths).argmax()]


class Subset(NamedTuple):
    """A fixed selection of training texts.

    Attributes:
      count: number of texts.
      longest: whether they are the longest, in characters, instead of random ones.
    """

    count: int
    longest: bool = False


def load_texts(
    name: str,
    tokenizer: Tokenizer,
    lengths: tuple[int, ...],
    *,
    data_dir: str | Path | None = None,
    test_file: Path | None = None,
    validation: float = 0.1,
    num_classes: int | None = None,
    subset: Subset | None = None,
) -> TextData:
    """Loads a set of labelled texts, as tokens.

    Texts longer than the tokenizer's limit are truncated; a warning says so once.

    Args:
      name: as for `train.data.text.tsv.find_texts`.
      tokenizer: of the model.
      lengths: lengths that texts are padded to, ascending; those over the tokenizer's limit are
        replaced by it.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      test_file: TSV file to test on.
      validation: below 1, the fraction of the training split to hold out; otherwise the number of
        texts.
      num_classes: expected number of classes; by default any.
      subset: the remaining texts to train on; by default all.

    Raises:
      DataError: if the set does not exist or does not match the arguments.
      ConfigError: if there are fewer texts than in the subset, or lengths do not ascend.
    """
    found = find_texts(name, data_dir=data_dir, test_file=test_file)
    classes = len(found.class_names)
    if num_classes not in (None, classes):
        raise DataError(
            f"{found.name}: num_classes is {num_classes}, but its labels have {classes} classes. "
            f"Set it to {classes}, or leave it out."
        )
    lengths = usable_lengths(lengths, tokenizer.longest)
    warned = False

    def tokenized(texts: Texts) -> TextSplit:
        nonlocal warned
        split, shortened = tokenize(texts, tokenizer, lengths)
        if shortened and not warned:
            warned = True
            warnings.warn(
                f"{found.name}: {shortened:,} of {len(texts):,} texts are longer than "
                f"{tokenizer.longest} tokens and are truncated; so are longer ones from now on.",
                stacklevel=2,
            )
        return split

    train, held_out = hold_out(found.read("train"), validation, _SEED, found.name, "texts")
    if subset is not None:
        train = _chosen(train, subset)
    return TextData(
        name=found.name,
        train=tokenized(train),
        validation=tokenized(held_out),
        test=lambda: tokenized(found.read("test")),
        class_names=found.class_names,
        lengths=lengths,
        tested_on=found.tested_on,
    )


def tokenize(texts: Texts, tokenizer: Tokenizer, lengths: tuple[int, ...]) -> tuple[TextSplit, int]:
    """Returns a split as tokens, and the number of texts that were truncated."""
    tokens, shortened = tokenizer.encode(texts.texts.tolist())
    rows = np.empty(len(tokens), object)
    rows[:] = tokens
    return TextSplit(rows, texts.labels, lengths), shortened


def _chosen(train: Texts, subset: Subset) -> Texts:
    count = subset.count
    if count > len(train):
        raise ConfigError(
            f"--train-examples is {count}, but there are only {len(train)} texts to train on; "
            f"expected at most {len(train)}."
        )
    order = np.random.default_rng(_SEED).permutation(len(train))
    if subset.longest:
        order = np.argsort([-len(text) for text in train.texts], kind="stable")
    return train.take(np.sort(order[:count]))
