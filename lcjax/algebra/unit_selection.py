"""Hidden units in the order in which they explain an output; float64, NumPy, on the host."""

from typing import NamedTuple, Protocol

import numpy as np

# A unit of which less than this part of its variance is left has nothing to add but rounding.
_DEPENDENT = 1e-6
# Units after which the matrices are updated, by one product instead of one for each unit.
_BLOCK = 32


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


class Order(Protocol):
    """Returns the order in which hidden units explain an output; see `order_units`."""

    def __call__(
        self, gram: np.ndarray, cross: np.ndarray, count: int | None = None, *, given: int = 0
    ) -> UnitOrder:
        """Returns the order."""
        ...


class NestedOrder:
    """The order of the units of one output, found once for all counts: each begins the next.

    Args:
      most: the largest count that is asked for.
    """

    def __init__(self, most: int):
        self._most = most
        self._known: dict[int, UnitOrder] = {}

    def __call__(
        self, gram: np.ndarray, cross: np.ndarray, count: int | None = None, *, given: int = 0
    ) -> UnitOrder:
        """Returns what `order_units` does, for the same matrices in every call of one `given`."""
        if given not in self._known:
            self._known[given] = order_units(gram, cross, self._most, given=given)
        whole, end = self._known[given], self._most if count is None else count
        return UnitOrder(whole.units[:end], whole.explained[: end + 1])


def order_units(
    gram: np.ndarray, cross: np.ndarray, count: int | None = None, *, given: int = 0
) -> UnitOrder:
    """Returns hidden units by how much of an output each explains, given those taken before.

    Orthogonal least squares: of the units left, the next is the one whose part orthogonal to those
    taken explains most of the output. This is a Cholesky decomposition of the Gram matrix whose
    pivots are chosen by the output, updated in blocks. All of n units cost O(n² (n + d_out)).

    Args:
      gram: Σ (v − E v)(v − E v)ᵀ of v = [x, h], inputs given before units; (n, n).
      cross: Σ (v − E v)(t − E t)ᵀ with the output t; (n, d_out).
      count: how many units to order; None orders all.
      given: how many leading entries of v are explained for free, as inputs of a linear map that
        stays next to the units.

    References:
      Chen, Billings and Luo 1989, "Orthogonal least squares methods and their application to
      non-linear system identification", section 3.2.
    """
    gram, cross = np.asarray(gram, np.float64), np.asarray(cross, np.float64)
    size = len(gram) - given
    count = size if count is None else min(count, size)
    rows, coefficients = _eliminated(gram, cross, given)
    variance = np.diagonal(gram)[given:]
    left = gram[given:, given:] - rows.T @ rows  # what those taken leave of the Gram matrix
    residual = cross[given:] - rows.T @ coefficients
    explained = [float((coefficients**2).sum())]
    taken: list[int] = []
    while len(taken) < count:
        block = _block(left, residual, variance, taken, min(_BLOCK, count - len(taken)))
        if not len(block.units):
            break
        left -= block.rows.T @ block.rows
        residual -= block.rows.T @ block.along
        taken += block.units
        explained += (explained[-1] + np.cumsum((block.along**2).sum(1))).tolist()
    return UnitOrder(np.array(taken, int), np.array(explained))


class _Block(NamedTuple):
    """Units taken one after another before matrices are updated for all of them at once.

    Attributes:
      units: their indices.
      rows: of the Cholesky factor, (len(units), n).
      along: what the output has along each, (len(units), d_out).
    """

    units: list[int]
    rows: np.ndarray
    along: np.ndarray


def _block(
    left: np.ndarray, residual: np.ndarray, variance: np.ndarray, taken: list[int], count: int
) -> _Block:
    """Returns the units that are taken next; fewer than `count` where the others add nothing."""
    rows, along = np.zeros((count, len(left))), np.zeros((count, residual.shape[1]))
    squares, spare = (residual**2).sum(1), np.diagonal(left).copy()
    units: list[int] = []
    for step in range(count):
        usable = spare > _DEPENDENT * variance
        usable[taken + units] = False
        gain = np.divide(squares, spare, out=np.zeros(len(left)), where=usable)
        unit = int(gain.argmax())
        if not gain[unit] > 0:
            break
        before, part = rows[:step], rows[:step, unit]
        row = (left[unit] - part @ before) / np.sqrt(spare[unit])
        own = (residual[unit] - part @ along[:step]) / np.sqrt(spare[unit])
        shared = residual @ own - (along[:step] @ own) @ before  # of each residual with own
        squares = np.maximum(squares - 2 * row * shared + row**2 * (own @ own), 0)
        spare -= row**2
        rows[step], along[step] = row, own
        units.append(unit)
    return _Block(units, rows[: len(units)], along[: len(units)])


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
