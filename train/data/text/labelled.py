"""Text-classification data: three splits of tokens."""

import dataclasses
import warnings
from pathlib import Path

import jax
import numpy as np

from train.data.dataset import LabelledData, cut
from train.data.images.splits import DataError
from train.data.text.length_buckets import TextSplit, usable_lengths
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import Texts, find_texts
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class TextData(LabelledData):
    """A labelled set of texts, cut in three.

    Attributes:
      train: a `TextSplit`.
      validation: cut from the training split.
      test: reads the split that is tested on.
      class_names: one a class.
      lengths: to which texts are padded, ascending.
      tested_on: what the test split is, in words.
    """

    train: TextSplit
    validation: TextSplit
    class_names: tuple[str, ...]
    lengths: tuple[int, ...]
    tested_on: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def about(self) -> str:
        """What the texts are, in words."""
        lengths = ", ".join(map(str, self.lengths))
        return (
            f"{self.num_classes} classes, texts padded to {lengths} tokens; tested on "
            f"{self.tested_on}"
        )

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one text, of the length that most of training goes into."""
        return jax.ShapeDtypeStruct((self._main_length,), np.int32)

    @property
    def each(self) -> str:
        """What one input is."""
        return f"a text of {self._main_length} tokens"

    @property
    def _main_length(self) -> int:
        counts = np.bincount(self.train.buckets, minlength=len(self.lengths))
        return self.lengths[(counts * self.lengths).argmax()]


def load_texts(
    name: str,
    tokenizer: Tokenizer,
    lengths: tuple[int, ...],
    *,
    data_dir: str | Path | None = None,
    test_file: Path | None = None,
    validation: float = 0.1,
    num_classes: int | None = None,
    train_examples: int | None = None,
    longest: bool = False,
    split_seed: int = 0,
) -> TextData:
    """Loads a set of labelled texts, as tokens.

    A text of more tokens than the tokenizer leaves is cut, which is said once, with a warning.

    Args:
      name: as for `train.data.text.tsv.find_texts`.
      tokenizer: of the model.
      lengths: to which texts are padded, ascending, as far as the tokenizer leaves so many tokens.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      test_file: TSV file to test on.
      validation: below 1, the part of the training split that is held out; else, how many texts.
      num_classes: if given, how many classes are expected; others raise.
      train_examples: if given, keep a fixed choice of so many of the texts that are left.
      longest: whether that choice is of the longest, in characters; else it is a random one.
      split_seed: fixes the cut between training and validation, and that choice.

    Raises:
      DataError: when the set is not there or does not match what was asked.
      ConfigError: when there are fewer texts than `train_examples`, or lengths do not ascend.
    """
    found = find_texts(name, data_dir=data_dir, test_file=test_file)
    classes = len(found.class_names)
    if num_classes not in (None, classes):
        raise DataError(
            f"{found.name}: num_classes is {num_classes}, but its labels have {classes} classes. "
            f"Give {classes}, or leave it out."
        )
    lengths = usable_lengths(lengths, tokenizer.longest)
    said = False

    def tokenised(texts: Texts) -> TextSplit:
        nonlocal said
        split, shortened = tokenise(texts, tokenizer, lengths)
        if shortened and not said:
            said = True
            warnings.warn(
                f"{found.name}: {shortened:,} of {len(texts):,} texts are longer than "
                f"{tokenizer.longest} tokens and are cut there, as longer ones will be.",
                stacklevel=2,
            )
        return split

    train, held_out = cut(found.read("train"), validation, split_seed, found.name, "texts")
    if train_examples is not None:
        train = _chosen(train, train_examples, longest, split_seed)
    return TextData(
        name=found.name,
        train=tokenised(train),
        validation=tokenised(held_out),
        test=lambda: tokenised(found.read("test")),
        class_names=found.class_names,
        lengths=lengths,
        tested_on=found.tested_on,
    )


def tokenise(texts: Texts, tokenizer: Tokenizer, lengths: tuple[int, ...]) -> tuple[TextSplit, int]:
    """Returns a split as tokens, and how many of its texts were cut."""
    tokens, shortened = tokenizer.encode(texts.texts.tolist())
    held = np.empty(len(tokens), object)
    held[:] = tokens
    return TextSplit(held, texts.labels, lengths), shortened


def _chosen(train: Texts, count: int, longest: bool, seed: int) -> Texts:
    if count > len(train):
        raise ConfigError(
            f"--train-examples is {count}, but there are only {len(train)} texts to train on; "
            "wanted at most that many."
        )
    order = np.random.default_rng(seed).permutation(len(train))
    if longest:
        order = np.argsort([-len(text) for text in train.texts], kind="stable")
    return train.take(np.sort(order[:count]))
