"""Batches of tokens of a few shapes, so that each layer compiles once or twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.calibration.held_out import is_held_out
from lcjax.errors import WeightsError

TOKENIZER = "tokenizer.json"
_SHORTEST = 16  # tokens of the shortest batches
HOLDOUT = 0.1  # fraction of texts that are not fitted on


class Batch(NamedTuple):
    """Texts of nearly the same length.

    Attributes:
      tokens: int32 (texts, tokens), 0 where they are padding.
      real: which are not padding; bool, of the same shape.
      held_out: which texts are not fitted on; bool (texts,).
    """

    tokens: np.ndarray
    real: np.ndarray
    held_out: np.ndarray

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The masks of tokens to fit on, and of tokens held out."""
        return self.real & ~self.held_out[:, None], self.real & self.held_out[:, None]


def read_tokenizer(folder: Path, vocabulary: int) -> Any:
    """Returns the tokenizer of a folder.

    Args:
      folder: of the model.
      vocabulary: number of rows of its embedding.

    Raises:
      WeightsError: no tokenizer.json, one that is not valid, or with more tokens than rows.
      ImportError: tokenizers is missing.
    """
    file = folder / TOKENIZER
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; expected the tokenizer of the model. Add it.")
    library = import_optional("tokenizers", "a model folder needs tokenizers", "lcjax[text]")
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's Rust code is not an Exception
        raise WeightsError(
            f"{file}: not a valid tokenizer: {printable(error, longest=200)}. Download it again."
        ) from error
    if not 0 <= largest < vocabulary:
        raise WeightsError(
            f"{file}: got {largest + 1:,} tokens, expected at most {vocabulary:,}, the rows of the "
            "embedding: it is of another model. Take the tokenizer of this one."
        )
    return tokenizer


def make_batches(
    tokenizer: Any, texts: Sequence[str], *, longest: int, tokens_per_batch: int
) -> list[Batch]:
    """Returns batches of all texts, the shortest first.

    A text longer than `longest` tokens is cut. Lengths are rounded up to powers of 2.

    Raises:
      ValueError: texts without a token.
    """
    rows = [np.array(found.ids[:longest], np.int32) for found in tokenizer.encode_batch(texts)]
    held_out = is_held_out(np.arange(len(rows), dtype=np.uint32), HOLDOUT)
    batches = _grouped(rows, held_out, longest=longest, tokens_per_batch=tokens_per_batch)
    if not batches:
        raise ValueError("texts: got none with a token, expected one at least.")
    return batches


def probe_batches(batches: Sequence[Batch], *, tokens: int) -> list[Batch]:
    """Returns batches of some of the texts that are held out, or of all texts where none is.

    Args:
      batches: of all texts.
      tokens: about how many to take, evenly over all lengths.
    """
    held_out = any(batch.counts[1].any() for batch in batches)
    rows = []
    for batch in batches:
        chosen = np.flatnonzero(batch.counts[1 if held_out else 0].any(1))
        rows += [batch.tokens[i][batch.real[i]] for i in chosen]
    rows = rows[:: max(round(sum(map(len, rows)) / tokens), 1)]
    return _grouped(
        rows,
        np.full(len(rows), held_out),
        longest=max(batch.tokens.shape[1] for batch in batches),
        tokens_per_batch=max(batch.tokens.size for batch in batches),
    )


def _grouped(
    rows: Sequence[np.ndarray], held_out: np.ndarray, *, longest: int, tokens_per_batch: int
) -> list[Batch]:
    """Returns batches of texts of about one length, the shortest first."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if len(row):
            length = min(max(_SHORTEST, 1 << (len(row) - 1).bit_length()), longest)
            groups.setdefault(length, []).append(i)
    batches = []
    for length, members in sorted(groups.items()):
        size = min(max(tokens_per_batch // length, 1), 1 << (len(members) - 1).bit_length())
        for start in range(0, len(members), size):
            batches.append(_batch(rows, held_out, members[start : start + size], (size, length)))
    return batches


def _batch(
    rows: Sequence[np.ndarray], held_out: np.ndarray, members: list[int], shape: tuple[int, int]
) -> Batch:
    tokens, real, out = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape[0], bool)
    for place, i in enumerate(members):
        tokens[place, : len(rows[i])] = rows[i]
        real[place, : len(rows[i])] = True
        out[place] = held_out[i]
    return Batch(tokens, real, out)


def token_counts(batches: Sequence[Batch]) -> Mapping[str, int]:
    """Returns how many tokens are fitted on, and how many are held out."""
    fitted, out = (sum(int(b.counts[i].sum()) for b in batches) for i in (0, 1))
    return {"fitted": fitted, "held_out": out}
