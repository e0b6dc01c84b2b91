"""Texts as tokens: by the model's own tokenizer.json, cut where its position table ends."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lcjax.interop.optional import import_optional
from train.splits import DataError

FILE = "tokenizer.json"
_CHUNK = 10_000


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the Hugging Face library `tokenizers`.

    Attributes:
      definition: what its tokenizer.json holds.
      longest: tokens, the special ones among them, after which a text is cut.
    """

    definition: str
    longest: int

    @classmethod
    def of(cls, folder: Path, longest: int) -> "Tokenizer":
        """Returns the tokenizer that lies beside a model's weights.

        Raises:
          DataError: when none lies there.
        """
        return cls(read_tokenizer(folder), longest)

    @property
    def digest(self) -> str:
        """A hash of the definition: the same for the same tokens."""
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        """One more than the largest number of a token."""
        return max(self._made.get_vocab().values()) + 1

    def encode(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Returns the tokens of every text, int32, and how many texts were cut."""
        tokens, cut = [], 0
        for start in range(0, len(texts), _CHUNK):
            encodings = self._made.encode_batch_fast(list(texts[start : start + _CHUNK]))
            tokens += [np.asarray(encoding.ids, np.int32) for encoding in encodings]
            cut += sum(bool(encoding.overflowing) for encoding in encodings)
        return tokens, cut

    @cached_property
    def _made(self) -> Any:
        made = parsed_tokenizer(self.definition)
        made.enable_truncation(self.longest)
        return made


def library() -> Any:
    """Returns the package tokenizers.

    Raises:
      ImportError: when it is not installed.
    """
    return import_optional(
        "tokenizers",
        "Texts are cut into tokens by the package tokenizers, which is missing",
        "lcjax[text]",
    )


def read_tokenizer(folder: Path) -> str:
    """Returns the definition of the tokenizer that lies beside a model's weights.

    Raises:
      DataError: when none lies there.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            f"{path} is not there; wanted the model's tokenizer as the library `tokenizers` "
            "saves it, beside its weights."
        )
    return path.read_text(encoding="utf-8")


def parsed_tokenizer(definition: str) -> Any:
    """Returns the library's own object, which neither pads nor cuts.

    Raises:
      DataError: when it is not the definition of a tokenizer.
    """
    made = library()
    try:
        made = made.Tokenizer.from_str(definition)
        made.no_padding()
        made.no_truncation()
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"{FILE} does not hold a tokenizer: {error}.") from error
    return made
