"""Language data: three splits of tokens of one vocabulary."""

import dataclasses
from typing import Any

import jax
import numpy as np

from train.data.dataset import Dataset
from train.data.text.documents import DocumentSet
from train.data.text.vocabulary import Vocabulary, VocabularyError
from train.data.text.windows import Windows, check_length
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class LanguageData(Dataset):
    """Running text, in three splits.

    Attributes:
      train: adjacent windows.
      validation: windows at the stride.
      test: returns the windows of the test split, at the stride.
      vocabulary: of the tokens.
    """

    train: Windows
    validation: Windows
    vocabulary: Vocabulary

    @property
    def about(self) -> str:
        """A description of the texts."""
        return (
            f"windows of {self.train.context} of {self.vocabulary.size:,} {self.vocabulary.unit}, "
            f"{len(self.train.tokens):,} tokens in all; validated at a stride of "
            f"{self.validation.stride}"
        )

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one window."""
        return jax.ShapeDtypeStruct((self.train.context,), np.int32)

    @property
    def each(self) -> str:
        """Name of one input."""
        return f"a window of {self.train.context} tokens"

    @property
    def evaluation(self) -> dict[str, Any]:
        """Windows of validation and test."""
        window, stride = self.validation.context, self.validation.stride
        note = (
            f"loss: mean over all tokens of a split but its first, in nats; windows of {window} "
            f"tokens at a stride of {stride}, so that a token is predicted from the "
            f"{window - stride + 1} to {window} before it."
        )
        return {"window": window, "stride": stride, "note": note}


def language_data(
    documents: DocumentSet,
    vocabulary: Vocabulary,
    context: int,
    stride: int,
    train_tokens: int | None = None,
) -> LanguageData:
    """Returns the three splits as windows of tokens.

    Args:
      documents: stored texts.
      vocabulary: of their tokens.
      context: tokens per window.
      stride: of evaluation, at most the context.
      train_tokens: number of tokens to train on, from the first; by default all.

    Raises:
      ConfigError: if a text is shorter than one window, or than `train_tokens`.
      VocabularyError: if a text has characters that the vocabulary lacks.
    """
    train, validation = (
        _packed(part, vocabulary, context, use)
        for part, use in ((documents.train, "train on"), (documents.validation, "validate"))
    )
    if train_tokens is not None and train_tokens > len(train):
        raise ConfigError(
            f"--train-tokens is {train_tokens:,}, but there are only {len(train):,} to train on; "
            f"expected at most {len(train):,}."
        )
    train = train[:train_tokens]
    check_length(train, context, "train on")
    return LanguageData(
        name=documents.name,
        train=Windows(train, context, context),
        validation=Windows(validation, context, stride),
        test=lambda: windows_to_test(documents, vocabulary, context, stride),
        vocabulary=vocabulary,
    )


def windows_to_test(
    documents: DocumentSet, vocabulary: Vocabulary, context: int, stride: int
) -> Windows:
    """Returns the test split; as for `language_data`."""
    return Windows(_packed(documents.test, vocabulary, context, "test on"), context, stride)


def _packed(documents: list[str], vocabulary: Vocabulary, context: int, use: str) -> np.ndarray:
    try:
        tokens = vocabulary.pack(documents)
    except VocabularyError as error:
        raise VocabularyError(f"text to {use}: {error}") from error
    check_length(tokens, context, use)
    return tokens
