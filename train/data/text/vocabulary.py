"""Vocabularies: characters, or subwords of the Hugging Face library `tokenizers`."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from train.data.text.tokenizer import library, parsed_tokenizer, read_tokenizer

_END = "<|endoftext|>"


class VocabularyError(ValueError):
    """A text has characters that a vocabulary lacks."""


class Vocabulary(abc.ABC):
    """Maps text to tokens and back."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """One more than the largest token id."""

    @property
    @abc.abstractmethod
    def unit(self) -> str:
        """Name of the tokens, in the plural."""

    @property
    @abc.abstractmethod
    def separator(self) -> np.ndarray:
        """Tokens between two documents."""

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, int32.

        Raises:
          VocabularyError: if the text has characters that the vocabulary lacks; names them.
        """

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of tokens."""

    def decode_after(self, before: Sequence[int] | np.ndarray, tokens: np.ndarray) -> str:
        """Returns the text of tokens that follow others, with a space that parts the two."""
        return self.decode([*before, *tokens])[len(self.decode(before)) :]

    @abc.abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Returns the vocabulary as JSON, to be read by `vocabulary_from_json`."""

    @property
    def digest(self) -> str:
        """A hash of the vocabulary."""
        return hashlib.sha256(json.dumps(self.as_json()).encode()).hexdigest()[:16]

    def pack(self, documents: Sequence[str]) -> np.ndarray:
        """Returns the tokens of documents in sequence, with separators in between."""
        parts = [self.encode(documents[0])]
        for document in documents[1:]:
            parts += [self.separator, self.encode(document)]
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Characters(Vocabulary):
    """Characters as tokens, by their index in a string.

    Attributes:
      characters: all of them.
    """

    characters: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """Returns the characters of texts and the newline, sorted."""
        return cls("".join(sorted(set("\n").union(*texts))))

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    @property
    def unit(self) -> str:
        """Name of the tokens, in the plural."""
        return "characters"

    @property
    def separator(self) -> np.ndarray:
        """A newline."""
        return self.encode("\n")

    def encode(self, text: str) -> np.ndarray:
        """Returns the indices of the characters, int32."""
        lacking = "".join(sorted(set(text) - self._numbers.keys()))
        if lacking:
            raise VocabularyError(
                f"the text has {lacking[:20]!r}, which the vocabulary lacks; expected characters "
                f"among {self.characters[:100]!r}. Remove them, or train on a text with them."
            )
        return np.array([self._numbers[character] for character in text], np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of tokens."""
        return "".join(self.characters[token] for token in tokens)

    def as_json(self) -> dict[str, Any]:
        """Returns the characters."""
        return {"characters": self.characters}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {character: number for number, character in enumerate(self.characters)}


@dataclasses.dataclass(frozen=True)
class Pieces(Vocabulary):
    """Byte-level subwords of the library `tokenizers`.

    Attributes:
      definition: content of its tokenizer.json.
    """

    definition: str

    @classmethod
    def trained(cls, texts: Sequence[str], size: int) -> "Pieces":
        """Returns a byte-pair vocabulary of at most this size, learned from texts.

        Every byte is a token, so any text can be encoded.

        Raises:
          ImportError: if the package tokenizers is not installed.
        """
        made = library()
        model = made.Tokenizer(made.models.BPE())
        model.pre_tokenizer = made.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = made.decoders.ByteLevel()
        trainer = made.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[_END],
            initial_alphabet=made.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        return cls(model.to_str())

    @classmethod
    def from_folder(cls, folder: Path) -> "Pieces":
        """Returns the vocabulary of tokenizer.json in the folder of a model's weights.

        Raises:
          DataError: if there is none.
        """
        return cls(read_tokenizer(folder))

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._made.get_vocab().values()) + 1

    @property
    def unit(self) -> str:
        """Name of the tokens, in the plural."""
        return "pieces of words"

    @property
    def separator(self) -> np.ndarray:
        """The end-of-text token, or a newline if the tokenizer has none."""
        end = self._made.token_to_id(_END)
        return self.encode("\n") if end is None else np.array([end], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids, int32."""
        return np.array(self._made.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of tokens."""
        return self._made.decode([int(token) for token in tokens], skip_special_tokens=False)

    def as_json(self) -> dict[str, Any]:
        """Returns the definition."""
        return {"tokenizer": self.definition}

    @cached_property
    def _made(self) -> Any:
        return parsed_tokenizer(self.definition)


def vocabulary_from_json(fields: dict[str, Any]) -> Vocabulary:
    """Returns the vocabulary of these fields, from `Vocabulary.as_json`."""
    if "characters" in fields:
        return Characters(fields["characters"])
    return Pieces(fields["tokenizer"])
