"""Rows held out of a fit, by which it is judged: a fixed choice, spread evenly over all rows."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Rows are held out where frac(n φ) < holdout, φ the golden section: evenly spread, in step with no
# period that the data may have.
_GOLDEN = 2654435769
WORD = 2**32  # row numbers are modulo this


def is_held_out(row: Any, holdout: float) -> Any:
    """Returns which rows are held out.

    Args:
      row: numbers of rows from the first batch on, uint32.
      holdout: the fraction of them, in [0, 1).
    """
    return (row + np.uint32(1)) * np.uint32(_GOLDEN) < np.uint32(min(holdout * WORD, WORD - 1))


def held_out_places(start: int, rows: int, holdout: float) -> np.ndarray:
    """Returns the places in a batch of the rows held out.

    Args:
      start: number of the batch's first row.
      rows: of the batch.
      holdout: the fraction that is held out.
    """
    numbers = np.arange(start, start + rows, dtype=np.uint64).astype(np.uint32)
    return np.flatnonzero(is_held_out(numbers, holdout))


def padded_places(start: int, rows: int, holdout: float) -> np.ndarray:
    """Returns `held_out_places`, padded with -1 to a length that rarely differs between batches.

    Args:
      start: number of the batch's first row.
      rows: of the batch.
      holdout: the fraction that is held out.
    """
    found = held_out_places(start, rows, holdout)
    # Multiples of the golden section are uneven by a number that grows with the logarithm.
    most = min(rows, math.ceil(rows * holdout) + 1 + rows.bit_length() // 3)
    size = most if len(found) <= most else rows
    return np.pad(found, (0, size - len(found)), constant_values=-1).astype(np.int32)


class Rows(NamedTuple):
    """The rows of a batch, and which of them are held out.

    Attributes:
      start: number of the first row, uint32.
      count: of rows.
      holdout: the fraction that is held out.
      held_out: places of the rows held out, -1 beyond them; None where the host does not know them.
    """

    start: jax.Array
    count: int
    holdout: float
    held_out: jax.Array | None

    def out(self, tokens: int) -> jax.Array:
        """Returns which of so many tokens along the first axis are held out."""
        of_row = (jnp.arange(tokens) // max(tokens // max(self.count, 1), 1)).astype(jnp.uint32)
        return is_held_out(self.start + of_row, self.holdout)

    def places(self, tokens: int) -> jax.Array | None:
        """Returns the places of the tokens held out, -1 beyond them; None where unknown."""
        if self.held_out is None or tokens % max(self.count, 1):
            return None
        each = tokens // max(self.count, 1)
        own = self.held_out[:, None] * each + jnp.arange(each, dtype=self.held_out.dtype)[None]
        return jnp.where(self.held_out[:, None] < 0, -1, own).reshape(-1)


def rows_of(batch: tuple[Any, ...]) -> int:
    """Returns the length of a batch's first axis."""
    return next((np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)), 1)
