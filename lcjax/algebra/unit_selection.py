"""Hidden units in the order in which they explain an output; float64, NumPy, on the host."""

from typing import NamedTuple

import numpy as np

# A unit of which less than this part of its variance is left has nothing to add but rounding.
_DEPENDENT = 1e-6


class UnitOrder(NamedTuple):
    """Hidden units in the order in which forward selection takes them.

    Attributes:
      units: indices of the units, the most explaining first; shorter than the number asked for
        where the units left add nothing.
      explained: `Σ ‖t − E t‖²` that the inputs given and the first i units explain, for i from 0
        to all of them; never decreases; (len(units) + 1,).
    """

    units: np.ndarray
    explained: np.ndarray


def order_units(
    gram: np.ndarray, cross: np.ndarray, count: int | None = None, *, given: int = 0
) -> UnitOrder:
    """Returns hidden units by how much of an output each explains, given those taken before.

    Orthogonal least squares: of the units left, the next is the one whose part orthogonal to those
    taken explains most of the output. This is a Cholesky decomposition of the Gram matrix whose
    pivots are chosen by the output. A step costs O(n (steps + d_out)), so all of n units
    O(n² (n + d_out)) at most.

    Args:
      gram: Σ (v − E v)(v − E v)ᵀ of v = [x, h], inputs given before units; (n, n).
      cross: Σ (v − E v)(t − E t)ᵀ with the output t; (n, d_out).
      count: how many units to order; None orders all.
      given: how many leading entries of v are explained for free, as inputs of a linear map that
        stays beside the units.

    References:
      Chen, Billings and Luo 1989, "Orthogonal least squares methods and their application to
      non-linear system identification", section 3.2.
    """
    gram, cross = np.asarray(gram, np.float64), np.asarray(cross, np.float64)
    size = len(gram) - given
    count = size if count is None else min(count, size)
    rows, coefficients = _eliminated(gram, cross, given)
    factor = np.zeros((len(rows) + count, size))  # rows of the pivoted Cholesky factor
    factor[: len(rows)] = rows
    units = gram[given:, given:]
    variance = np.diagonal(units).copy()
    left = variance - (rows**2).sum(0)
    residual = cross[given:] - rows.T @ coefficients
    explained = [float((coefficients**2).sum())]
    taken: list[int] = []
    for step in range(len(rows), len(rows) + count):
        usable = left > _DEPENDENT * variance
        usable[taken] = False
        gain = np.divide((residual**2).sum(1), left, out=np.zeros(size), where=usable)
        unit = int(gain.argmax())
        if not gain[unit] > 0:
            break
        pivot = np.sqrt(left[unit])
        row = (units[unit] - factor[:step, unit] @ factor[:step]) / pivot
        factor[step] = row
        along = residual[unit] / pivot
        residual -= row[:, None] * along
        left -= row**2
        taken.append(unit)
        explained.append(explained[-1] + float(gain[unit]))
    return UnitOrder(np.array(taken, int), np.array(explained))


def _eliminated(gram: np.ndarray, cross: np.ndarray, given: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Cholesky rows of the given inputs at the units, and what they explain.

    Inputs that depend on others are left out by an eigendecomposition in the place of a Cholesky.
    """
    if not given:
        return np.zeros((0, len(gram))), np.zeros((0, cross.shape[1]))
    deviation = np.sqrt(np.diagonal(gram)[:given])
    unit = np.divide(1, deviation, out=np.zeros(given), where=deviation > 0)
    values, vectors = np.linalg.eigh(gram[:given, :given] * unit[:, None] * unit)
    certain = values > max(values[-1], 0) * _DEPENDENT
    whiten = (vectors[:, certain] / np.sqrt(values[certain])).T * unit
    return whiten @ gram[:given, given:], whiten @ cross[:given]
