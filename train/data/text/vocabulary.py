"""Text as tokens and back: by characters, or by pieces of the Hugging Face library `tokenizers`."""

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
    """A text has what a vocabulary lacks."""


class Vocabulary(abc.ABC):
    """What text is made of."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many tokens there are: one more than the largest number of one."""

    @property
    @abc.abstractmethod
    def unit(self) -> str:
        """What a token is, in the plural."""

    @property
    @abc.abstractmethod
    def separator(self) -> np.ndarray:
        """The tokens that go between two documents."""

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, int32.

        Raises:
          VocabularyError: when the text has characters that the vocabulary lacks; names them.
        """

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of tokens."""

    @abc.abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Returns what `vocabulary_from_json` makes the vocabulary of again."""

    @property
    def digest(self) -> str:
        """A hash: the same for the same tokens."""
        return hashlib.sha256(json.dumps(self.as_json()).encode()).hexdigest()[:16]

    def pack(self, documents: Sequence[str]) -> np.ndarray:
        """Returns the tokens of documents one after another, separators between them."""
        parts = [self.encode(documents[0])]
        for document in documents[1:]:
            parts += [self.separator, self.encode(document)]
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Characters(Vocabulary):
    """Characters are tokens, by their place in a string.

    Attributes:
      characters: all there are.
    """

    characters: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """Returns the characters that texts have, in order, and the newline."""
        return cls("".join(sorted(set("\n").union(*texts))))

    @property
    def size(self) -> int:
        """How many characters there are."""
        return len(self.characters)

    @property
    def unit(self) -> str:
        """What a token is, in the plural."""
        return "characters"

    @property
    def separator(self) -> np.ndarray:
        """A newline."""
        return self.encode("\n")

    def encode(self, text: str) -> np.ndarray:
        """Returns the characters' numbers, int32."""
        lacking = "".join(sorted(set(text) - self._numbers.keys()))
        if lacking:
            raise VocabularyError(
                f"the text has {lacking[:20]!r}, which the vocabulary lacks; it has "
                f"{self.characters[:100]!r}. Leave them out, or train with a text that has them."
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
    """Byte-level pieces, as `tokenizers` splits text into.

    Attributes:
      definition: what its tokenizer.json holds.
    """

    definition: str

    @classmethod
    def trained(cls, texts: Sequence[str], size: int) -> "Pieces":
        """Returns a byte-pair vocabulary of at most this size, learned from texts.

        Every byte is a piece, so that no text has what the vocabulary lacks.

        Raises:
          ImportError: when the package tokenizers is not installed.
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
    def beside(cls, folder: Path) -> "Pieces":
        """Returns the vocabulary whose tokenizer.json lies beside a model's weights.

        Raises:
          DataError: when none lies there.
        """
        return cls(read_tokenizer(folder))

    @property
    def size(self) -> int:
        """One more than the largest number of a piece."""
        return max(self._made.get_vocab().values()) + 1

    @property
    def unit(self) -> str:
        """What a token is, in the plural."""
        return "pieces of words"

    @property
    def separator(self) -> np.ndarray:
        """The end of a text, or a newline where the tokenizer has no such token."""
        end = self._made.token_to_id(_END)
        return self.encode("\n") if end is None else np.array([end], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Returns the numbers of the pieces, int32."""
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
    """Returns the vocabulary that `as_json` made these fields of."""
    if "characters" in fields:
        return Characters(fields["characters"])
    return Pieces(fields["tokenizer"])
