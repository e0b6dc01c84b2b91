"""Tokenizes texts with the model's tokenizer.json, truncated to its position table."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.validation.json_files import parse_json
from train.data.dataset import DataError
from train.data.text.files import read_text

FILE = "tokenizer.json"
_CHUNK = 10_000
_MOST = 2**24  # tokens
_LARGEST = 2**28  # bytes of a tokenizer.json


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the Hugging Face library `tokenizers`.

    Attributes:
      definition: content of its tokenizer.json.
      longest: tokens, including the special ones, to which texts are truncated.
    """

    definition: str
    longest: int

    @classmethod
    def of(cls, folder: Path, longest: int) -> "Tokenizer":
        """Returns the tokenizer in the folder of a model's weights.

        Raises:
          DataError: if there is none.
        """
        return cls(read_tokenizer(folder), longest)

    @property
    def digest(self) -> str:
        """A hash of the definition."""
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._made.get_vocab().values()) + 1

    def encode(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Returns the tokens of every text, int32, and the number of truncated texts."""
        tokens, truncated = [], 0
        for start in range(0, len(texts), _CHUNK):
            encodings = self._made.encode_batch_fast(list(texts[start : start + _CHUNK]))
            tokens += [np.asarray(encoding.ids, np.int32) for encoding in encodings]
            truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return tokens, truncated

    @cached_property
    def _made(self) -> Any:
        made = parsed_tokenizer(self.definition)
        made.enable_truncation(self.longest)
        return made


def library() -> Any:
    """Returns the package tokenizers.

    Raises:
      ImportError: if it is not installed.
    """
    return import_optional(
        "tokenizers",
        "Tokenizing texts needs the package tokenizers, which is missing",
        "lcjax[text]",
    )


def read_tokenizer(folder: Path) -> str:
    """Returns the definition of the tokenizer in the folder of a model's weights.

    Raises:
      DataError: if there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; expected the model's tokenizer, saved by the library "
            "`tokenizers` in the folder of its weights."
        )
    return read_text(path, largest=_LARGEST)


def parsed_tokenizer(definition: str) -> Any:
    """Returns the library's object, which neither pads nor truncates.

    Raises:
      DataError: if it is not the definition of a tokenizer.
    """
    made = library()
    _check(definition)
    try:
        made = made.Tokenizer.from_str(definition)
        made.no_padding()
        made.no_truncation()
        largest = max(made.get_vocab().values(), default=-1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's Rust code is not an Exception
        raise DataError(
            f"{FILE} is not a valid tokenizer: {printable(error, longest=200)}. Download it again."
        ) from error
    if not 0 <= largest < _MOST:
        raise DataError(
            f"{FILE}: its largest token id is {largest:,}; expected 0 to {_MOST - 1:,}. Download "
            "it again."
        )
    return made


def _check(definition: str) -> None:
    """Raises unless a definition is JSON whose token ids are in range.

    The library allocates tables as long as the largest id.
    """
    found = parse_json(definition, FILE, error=DataError)
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict):
        raise DataError(
            f"{FILE} is not a valid tokenizer: `model` is missing or not an object. Download it "
            "again."
        )
    added, vocabulary = found.get("added_tokens") or [], model.get("vocab") or {}
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if isinstance(added, list):
        numbers += [token.get("id") for token in added if isinstance(token, dict)]
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MOST:
            raise DataError(
                f"{FILE}: a token id is {printable(repr(number), longest=40)}; expected 0 to "
                f"{_MOST - 1:,}. Download it again."
            )
