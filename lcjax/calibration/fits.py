"""Fits: the options that say how the replacement of a segment is found."""

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np

from lcjax._messages import describe
from lcjax.structure.front_end import Observed
from lcjax.validation.arguments import check_number, is_count

Rank = int | Literal["auto"] | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Fit:
    """Base of the fits; `lcjax.surgery.solvers.solve` finds the solver by the class.

    Attributes:
      rank: keep a matrix as two factors of at most this rank, or with "auto" of the least rank
        within the tolerance, where they are smaller. None: as is cheapest without loss.
      tolerance: largest relative error of rank="auto", in [0, 1): of the segment's output on the
        calibration data for least squares, otherwise of the matrix, in Frobenius norm.

    Raises:
      ValueError: a number out of range.
      TypeError: something that is not a number.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = True
    observed: ClassVar[Observed] = "segment"
    # For fits without these options.
    max_gap: ClassVar[float] = math.inf
    sequential: ClassVar[bool] = False

    rank: Rank = None
    tolerance: float = 0.05

    def at_any_gap(self) -> "Fit":
        """Returns this fit for sites of any slope."""
        return self

    def reduced(self) -> "Fit":
        """Returns the simplest fit that does the same."""
        return self

    def __post_init__(self):
        rank = self.rank
        if rank not in (None, "auto") and not is_count(rank):
            raise ValueError(f"rank is {rank!r}; expected None, 'auto' or a number of at least 1.")
        check_number("tolerance", self.tolerance)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; expected a relative error in [0, 1).")
        for each in fields(self):  # NumPy's numbers cannot be written to JSON
            if isinstance(value := getattr(self, each.name), np.generic):
                object.__setattr__(self, each.name, value.item())

    def non_defaults(self) -> dict[str, Any]:
        """Returns the options that have no default or another value, positional ones first."""
        options = {each: getattr(self, each.name) for each in fields(self)}
        stated = [
            each
            for each, value in options.items()
            if each.default is MISSING or value != each.default
        ]
        return {each.name: options[each] for each in sorted(stated, key=lambda f: bool(f.kw_only))}

    def __repr__(self) -> str:
        """Returns the shortest expression that makes this fit."""
        positional = {each.name for each in fields(self) if not each.kw_only}
        arguments = [
            repr(value) if name in positional else f"{name}={value!r}"
            for name, value in self.non_defaults().items()
        ]
        return f"{type(self).__name__}({', '.join(arguments)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Exact(Fit):
    """Treats each activation as the identity: exact at slope 1, and needs no data.

    Attributes:
      max_gap: largest accepted gap `|1 − α|`, at least 0; inf accepts any.
      rank: as for every fit.
      tolerance: as for every fit.

    Example:
      >>> import lcjax
      >>> lcjax.Exact(max_gap=0.1)
      Exact(max_gap=0.1)
    """

    name: ClassVar[str] = "exact"
    needs_data: ClassVar[bool] = False

    max_gap: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        check_at_least_0("max_gap", self.max_gap)

    def at_any_gap(self) -> "Exact":
        """Returns this fit without a limit on the gap."""
        return replace(self, max_gap=math.inf)


@dataclass(frozen=True, kw_only=True, repr=False)
class PerUnit(Fit):
    """Replaces each activation by a gain and an offset for every unit, `g ⊙ z + c`, from data.

    The best fit where tokens are few or widths large.

    Attributes:
      sequential: whether a plan fits segments one after another, in forward order.
      rank: as for every fit.
      tolerance: as for every fit.

    Example:
      >>> import lcjax
      >>> lcjax.PerUnit().needs_data, lcjax.PerUnit(sequential=False)
      (True, PerUnit(sequential=False))
    """

    name: ClassVar[str] = "per_unit"
    observed: ClassVar[Observed] = "unit"

    sequential: bool = True


@dataclass(frozen=True, kw_only=True, repr=False)
class LeastSquares(Fit):
    """Replaces each segment by the ridge regression of its outputs on its inputs, from data.

    `W = (Σxx + ρ D)⁻¹ Σxt`, `b = E t − E x W`, with ρ the ridge and D the variances of the inputs,
    larger for inputs that contribute little to the first kernel's output.

    Attributes:
      ridge: ρ on standardised inputs, at least 0.
      sequential: whether a plan fits segments one after another, in forward order.
      rank: as for every fit.
      tolerance: as for every fit.

    Example:
      >>> import lcjax
      >>> lcjax.LeastSquares(ridge=0.01)
      LeastSquares(ridge=0.01)
    """

    name: ClassVar[str] = "least_squares"

    ridge: float = 1e-3
    sequential: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_at_least_0("ridge", self.ridge)

    def __add__(self, units: Any) -> "Units":
        """Returns the fit of a linear map next to kept units.

        Example:
          >>> fit = LeastSquares(ridge=0.01) + Units(64)
          >>> fit.count, fit.linear, fit.ridge
          (64, True, 0.01)
        """
        if not isinstance(units, Units):
            return NotImplemented
        if self.rank is not None:
            raise ValueError(f"rank is {self.rank}; expected None for a map next to units.")
        return replace(units, linear=True, ridge=self.ridge)


@dataclass(frozen=True, kw_only=True, repr=False)
class Units(Fit):
    """Keeps the hidden units that explain most of the output, and refits the last kernel.

    Units are taken one after another, each by how much it explains of the output given those taken
    before (orthogonal least squares). Then one ridge regression on `[x, h_S]`, or on `h_S` alone,
    gives the last kernel, and with `linear` the matrix of a linear map next to the units:
    `t ≈ x W + h_S B + b`. Its ridge keeps B near the rows of the deep kernel, and W near 0.

    Attributes:
      count: how many hidden units stay, at least 0; positional. With 0 units and `linear` the
        result is that of `LeastSquares()`, without it that of `Remove()`; with all and without
        `linear` nothing changes.
      linear: whether a linear map of the input is added: `LeastSquares() + Units(count)`.
      candidates: how many units are considered, at least count: those of the largest variance times
        the squared norm of their row of the last kernel, found in an extra pass over the data. The
        moments of c candidates take at most `16 (d_in + c) (d_in + c + d_out)` bytes on the device.
        None considers all units where that is at most 512 MiB, otherwise as many as fit in three
        times the bytes of the pair's kernels, but at least count. On a mesh each device keeps a
        block of their rows, where the number of devices divides them.
      ridge: as for `LeastSquares`, times `1 + 30 i / n` of i units and inputs that are fitted to n
        tokens.
      sequential: as for `LeastSquares`.
      rank: None; units have no factors.
      tolerance: not used.

    Raises:
      ValueError: a count below 0, or a rank.

    Example:
      >>> import lcjax
      >>> lcjax.Units(64).linear, (lcjax.LeastSquares() + lcjax.Units(64)).linear
      (False, True)

    References:
      Chen, Billings and Luo 1989, "Orthogonal least squares methods and their application to
      non-linear system identification".
    """

    name: ClassVar[str] = "units"
    observed: ClassVar[Observed] = "hidden"

    count: int = field(kw_only=False)
    linear: bool = False
    ridge: float = 1e-3
    sequential: bool = True
    candidates: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_at_least_0("ridge", self.ridge)
        if self.rank is not None:
            raise ValueError(f"rank is {self.rank}; expected None: kept units have no factors.")
        if isinstance(self.count, bool) or (self.count != 0 and not is_count(self.count)):
            raise ValueError(f"count is {self.count!r}; expected a number of units, at least 0.")
        if self.candidates is not None and not (
            is_count(self.candidates) and self.candidates >= self.count
        ):
            raise ValueError(
                f"candidates is {self.candidates!r}; expected None or a number of units, at least "
                f"count {self.count:,}."
            )

    def reduced(self) -> Fit:
        """Returns `LeastSquares` or `Remove` for a count of 0, otherwise this fit."""
        if self.count:
            return self
        if self.linear:
            return LeastSquares(ridge=self.ridge, sequential=self.sequential)
        return Remove(sequential=self.sequential)


@dataclass(frozen=True, kw_only=True, repr=False)
class Remove(Fit):
    """Replaces both layers and the activation by a bias, the mean output.

    Attributes:
      sequential: as for `LeastSquares`.
      rank: None.
      tolerance: not used.

    Example:
      >>> import lcjax
      >>> lcjax.Remove().name
      'remove'
    """

    name: ClassVar[str] = "remove"

    sequential: bool = True


def check_fit(fit: Any, *, needs_data: bool = False) -> None:
    """Raises unless this is a fit.

    Args:
      fit: what the user gave.
      needs_data: whether it must be one that is fitted to data.

    Raises:
      TypeError: not a fit.
      ValueError: a fit without data where data is given.
    """
    if not isinstance(fit, Fit):
        given = repr(fit) if isinstance(fit, str) else describe(fit)
        raise TypeError(
            f"fit: got {given}, expected lcjax.Exact(), lcjax.PerUnit(), lcjax.LeastSquares(), "
            "lcjax.Units(count), lcjax.LowRank(rank) or lcjax.Remove(). Pass one of these objects; "
            "calibration= takes statistics, lcjax.collapse_sequential also plan.fits."
        )
    if needs_data and not fit.needs_data:
        raise ValueError(
            f"fit: got {fit}, which takes no data; expected lcjax.PerUnit(), "
            "lcjax.LeastSquares(), lcjax.Units(count), lcjax.LowRank(rank) or lcjax.Remove(). "
            "Without data call lcjax.collapse."
        )


def check_at_least_0(name: str, value: Any) -> None:
    """Raises TypeError unless a value is a number, ValueError unless it is at least 0."""
    check_number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} is {value}; expected a number of at least 0.")


LEAST_SQUARES = LeastSquares()  # the default of functions that fit to data
