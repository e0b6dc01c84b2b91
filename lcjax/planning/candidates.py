"""Candidates: the fits that a plan tries at each site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from lcjax._messages import describe
from lcjax.calibration.candidates import SMALL_BYTES, moment_bytes
from lcjax.calibration.counts import multiple_for
from lcjax.calibration.fits import Fit, LeastSquares, Remove, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.structure.segment import Segment
from lcjax.validation.arguments import check_number, is_count


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The fits to try at each site, made from its width.

    Attributes:
      fractions: of the hidden units, each in (0, 1), that `Units` keeps.
      linear: whether `LeastSquares()` is tried.
      units: whether `Units(k)` is tried for every fraction.
      linear_and_units: whether `LeastSquares() + Units(k)` is tried for every fraction up to 1/2.
      low_rank: whether `LowRank(r)` is tried: for every fraction from 1/8 on of the rank at which
        two factors are as large as the first kernel, where moments of all hidden units take at
        most 512 MiB.
      remove: whether `Remove()` is tried, at sites where nothing follows in the chain.
      multiple_of: k and r are rounded to a multiple of it; None takes 128 on a TPU, 64 on a GPU, 8
        elsewhere.

    Raises:
      ValueError: numbers out of range; nothing to try.

    Example:
      >>> import lcjax
      >>> from lcjax.planning.candidates import fits_for_width
      >>> few = lcjax.Candidates(
      ...     fractions=(0.25, 0.5), linear_and_units=False, low_rank=False, multiple_of=8)
      >>> [fit.name for fit in fits_for_width(few, 64)], fits_for_width(few, 64)[1].count
      (['least_squares', 'units', 'units', 'remove'], 16)
    """

    fractions: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
    linear: bool = True
    units: bool = True
    linear_and_units: bool = True
    low_rank: bool = True
    remove: bool = True
    multiple_of: int | None = None

    def __post_init__(self):
        for fraction in self.fractions:
            check_number("fractions", fraction, like=0.5)
            if not 0 < fraction < 1:
                raise ValueError(f"fractions: got {fraction}, expected fractions in (0, 1).")
        if self.multiple_of is not None and not is_count(self.multiple_of):
            raise ValueError(
                f"multiple_of: got {self.multiple_of!r}, expected None or a number of at least 1."
            )
        counts = bool(self.fractions) and (self.units or self.linear_and_units or self.low_rank)
        if not (self.linear or self.remove or counts):
            raise ValueError("Candidates: got nothing to try; allow one kind of fit at least.")

    @property
    def multiple(self) -> int:
        """Numbers of units are multiples of it; None is replaced by that of this device."""
        return self.multiple_of or multiple_for(jax.default_backend())


def fits_for_width(candidates: Candidates, units: int) -> tuple[Fit, ...]:
    """Returns the fits to try at a site of so many hidden units.

    Raises:
      ValueError: a multiple that leaves no number of units.
    """
    multiple = candidates.multiple
    fits: list[Fit] = [LeastSquares()] if candidates.linear else []
    if candidates.fractions and (candidates.units or candidates.linear_and_units):
        wide = {max(round(part * units / multiple), 1) * multiple for part in candidates.fractions}
        counts = sorted(count for count in wide if count < units)
        if not counts and candidates.multiple_of is not None:
            raise ValueError(
                f"multiple_of: got {multiple}, which leaves no number of units under {units}. Give "
                "a smaller multiple, or candidates without units."
            )
        fits += [Units(count) for count in counts if candidates.units]
        few = [count for count in counts if 2 * count <= units]
        fits += [Units(count, linear=True) for count in few if candidates.linear_and_units]
    return (*fits, *([Remove()] if candidates.remove else []))


def fits_to_try(candidates: Candidates | Sequence[Fit], segment: Segment) -> tuple[Fit, ...]:
    """Returns the fits to try at the site of a segment; of experts no `Units`.

    Raises:
      ValueError: a fit that needs no data, or more units than the site has.
    """
    if isinstance(candidates, Candidates):
        fits = fits_for_width(candidates, segment.widths[-2])
        if segment.experts:
            return tuple(fit for fit in fits if not isinstance(fit, Units))
        return (*fits, *low_ranks(candidates, segment.pair))
    for fit in candidates:
        if isinstance(fit, Units) and fit.count > segment.widths[-2]:
            raise ValueError(
                f"{segment.label}: got {fit} as a candidate, expected at most its "
                f"{segment.widths[-2]:,} units. Give lcjax.Candidates(fractions=...), which "
                "follows the width of each site, or plan these sites alone by sites=."
            )
    return tuple(dict.fromkeys(candidates))


def low_ranks(candidates: Candidates, pair: Segment) -> list[LowRank]:
    """Returns the fits of low rank to try at a site."""
    d_in, hidden, d_out = pair.widths
    if not candidates.low_rank or moment_bytes(d_in, hidden, d_out) > SMALL_BYTES:
        return []
    even = d_in * hidden / (d_in + hidden)
    multiple = candidates.multiple
    parts = [part for part in candidates.fractions if part >= 1 / 8]
    ranks = {round(part * even / multiple) * multiple for part in parts}
    return [LowRank(rank) for rank in sorted(ranks) if 0 < rank < even]


def check_candidates(candidates: Any) -> None:
    """Raises unless these are candidates: TypeError for the type, ValueError for a fit."""
    if isinstance(candidates, Candidates):
        return
    fits = list(candidates) if isinstance(candidates, Sequence) else [candidates]
    wrong = next((fit for fit in fits if not isinstance(fit, Fit)), None)
    if not isinstance(candidates, Sequence) or isinstance(candidates, str) or wrong is not None:
        what = describe(candidates if wrong is None else wrong)
        raise TypeError(
            f"candidates: got {what}, expected lcjax.Candidates(...) or a list of fits, such as "
            "[lcjax.LeastSquares(), lcjax.Units(64)]."
        )
    if not fits:
        raise ValueError("candidates: got none, expected at least one fit.")
    for fit in fits:
        if not fit.needs_data:
            raise ValueError(
                f"candidates: got {fit}, which takes no data; expected fits to data. "
                "lcjax.LeastSquares() finds the exact map where a slope is 1."
            )


ALL_CANDIDATES = Candidates()  # the default of functions that plan
