"""Sites of one chain share layers: how much less their fits save together than each alone."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lcjax.calibration.fits import Fit, Remove, Units
from lcjax.calibration.low_rank import LowRank

_MOST = 4096  # choices for a chain that are enumerated before those that cannot win are dropped


class _Open(NamedTuple):
    """The inputs of the next matrix of a chain, and the size of all matrices before it.

    Attributes:
      inputs: from the last hidden layer.
      bypass: from a linear map beside that layer.
      weights: entries of the matrices before.
      biases: entries of their biases.
      entered: whether a bypass of the layer before is added to the output of the next matrix.
    """

    inputs: int
    bypass: int = 0
    weights: int = 0
    biases: int = 0
    entered: bool = False

    def through(self, width: int, rank: int | None = None) -> "_Open":
        """Returns the state after a layer of a width, its matrix two factors where that is less."""
        weights = (self.inputs + self.bypass) * width
        if rank is not None and not self.entered:
            weights = min(weights, rank * (self.inputs + width))
        return _Open(width, 0, self.weights + weights, self.biases + width)

    def past(self, fit: Fit | None, width: int) -> "_Open":
        """Returns the state after a site with a fit, of a width in the deep model."""
        match fit:
            case None:
                return self.through(width)
            case Units():
                after = self.through(min(fit.count, width))._replace(entered=True)
                return after._replace(bypass=self.inputs) if fit.linear else after
            case LowRank():
                return self.through(width, fit.rank)
            case Remove():
                return self._replace(inputs=0, bypass=0)
            case _:
                return self


def chain_size(widths: Sequence[int], fits: Sequence[Fit | None]) -> tuple[int, int]:
    """Returns the number of weights and of biases of a chain in which fits are carried out.

    Args:
      widths: d_0, d_1, ..., d_n of the chain's Dense layers.
      fits: of the sites, one for each of d_1 to d_{n-1}; None keeps a site.

    Example:
      >>> import lcjax
      >>> from lcjax.planning.choosing.chains import chain_size
      >>> chain_size((5, 12, 16, 3), (lcjax.Units(4), lcjax.LeastSquares()))
      (32, 7)
    """
    state = _Open(widths[0])
    for fit, width in zip(fits, widths[1:-1], strict=True):
        state = state.past(fit, width)
    rank = fits[-1].rank if fits and isinstance(fits[-1], LowRank) else None
    last = state.through(widths[-1], rank)
    return last.weights, last.biases


def overlap(widths: Sequence[int], fits: Sequence[Fit | None]) -> tuple[int, int]:
    """Returns what fits change together beyond the sum of what each changes alone.

    Args:
      widths: of the chain.
      fits: of its sites.

    Returns:
      the difference in weights, and in weights and biases; zeros for one site.
    """
    kept: list[Fit | None] = [None] * len(fits)
    together = np.array(chain_size(widths, fits))
    deep = np.array(chain_size(widths, kept))
    alone = np.zeros(2, int)
    for i, fit in enumerate(fits):
        alone += np.array(chain_size(widths, [*kept[:i], fit, *kept[i + 1 :]])) - deep
    weights, biases = (together - deep - alone).tolist()
    return weights, weights + biases


def choices_of_chain(
    widths: Sequence[int], fits: Sequence[Sequence[Fit | None]], drops: Sequence[Sequence[float]]
) -> list[tuple[int, ...]]:
    """Returns the choices of an option for each site of a chain, without those that cannot win.

    All of them up to 4,096. Of more, partial choices that end in the same hidden layer and keep as
    many sites stay only where none of them is both smaller and drops less.

    Args:
      widths: of the chain.
      fits: of the options of each site.
      drops: of the same options.
    """
    found = [((), _Open(widths[0]), 0, 0.0)]
    for site, (options, own, width) in enumerate(zip(fits, drops, widths[1:-1], strict=True)):
        found = [
            ((*chosen, i), state.past(fit, width), kept + (fit is None), drop + own[i])
            for chosen, state, kept, drop in found
            for i, fit in enumerate(options)
        ]
        if len(found) * len(fits[min(site + 1, len(fits) - 1)]) > _MOST:
            found = _unbeaten(found)
    return [chosen for chosen, *_ in found]


def _unbeaten(found: list[tuple[tuple[int, ...], _Open, int, float]]) -> list:
    def end(each):
        _, state, kept, _ = each
        return state.inputs, state.bypass, state.entered, kept

    left = []
    for _, group in itertools.groupby(sorted(found, key=end), key=end):
        least = np.inf
        for each in sorted(group, key=lambda one: (one[1].weights, one[1].biases, one[3])):
            if each[3] < least:
                left.append(each)
                least = each[3]
    return left
