"""The MLP of a compact layer from the moments of its values."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.algebra import regression
from lcjax.algebra.moments import Moments
from lcjax.calibration.candidates import candidate_count
from lcjax.calibration.fits import Fit, LeastSquares, Remove, Units
from lcjax.calibration.statistics import SplitMoments
from lcjax.errors import CollapseError
from lcjax.folder.families import Family
from lcjax.folder.fitting.passes import Read
from lcjax.folder.fitting.ridge import ridge_in_place, through_origin
from lcjax.structure.segment import Joint, Segment
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.solvers import readers

_KEY = "mlp"
# Inputs above which the general solver would need too much memory.
_WIDE = 4096
MLP = dict[str, dict[str, np.ndarray]]


def read_for(fit: Fit) -> Read:
    """Returns of which values of an MLP a fit needs moments."""
    if isinstance(fit, Units) and fit.count:
        return "both" if fit.linear else "hidden"
    return "input"


def segment_of(family: Family, layer: int, mlp: Mapping[str, Any], *, inputs: bool) -> Segment:
    """Returns a layer's MLP as a segment, for solvers.

    Args:
      family: of the layer.
      layer: its index.
      mlp: its params; arrays or ShapeDtypeStructs.
      inputs: whether the input is among the values that moments are of.
    """
    *gates, first = ({"kernel": mlp[name]["kernel"]} for name in family.first)
    if not inputs:
        first = {"kernel": np.zeros((0, first["kernel"].shape[1]), np.float32)}
    site = family.site(layer)
    return Segment(
        layers=(first, {"kernel": mlp[family.last]["kernel"]}),
        joints=(Joint(site, np.float32(0)),),
        names=(f"{site}/first", f"{site}/last"),
        key=_KEY,
        gates=tuple(gates) if inputs else (),
    )


def pool_size(family: Family, fit: Units) -> int:
    """Returns for how many hidden units moments are taken; see `Units.candidates`."""
    shapes = {family.last: (family.hidden, family.width)}
    shapes |= dict.fromkeys(family.first, (family.width, family.hidden))
    mlp = {
        name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)} for name, shape in shapes.items()
    }
    return candidate_count(fit, segment_of(family, 0, mlp, inputs=True))


def strongest(units: Moments, last: np.ndarray, count: int) -> np.ndarray:
    """Returns the units of the largest variance times squared norm of their row, increasing.

    Args:
      units: unitwise moments of the hidden units.
      last: kernel of the last layer, (hidden, width).
      count: number of units.
    """
    variance = np.asarray(units.tt, np.float64) / float(units.count)
    norms = np.einsum("hd,hd->h", last, last, dtype=np.float64)
    return np.sort(np.argsort(-variance * norms, kind="stable")[:count])


def solve_layer(
    family: Family, layer: int, fit: Fit, mlp: MLP, moments: Moments, *, bias: bool
) -> MLP:
    """Returns the params of an MLP after a fit, float32.

    Args:
      family: of the layer.
      layer: its index.
      fit: `Units`, `LeastSquares` or `Remove`.
      mlp: its params, of the hidden units alone from which `Units` chooses.
      moments: of the values that `read_for` says; donated.
      bias: whether the output may have a bias.

    Raises:
      CollapseError: too few tokens, or values that are not finite.
    """
    _check(family.site(layer), moments)
    moments = jax.device_get(moments if bias else through_origin(moments))
    fit = fit.reduced()
    if isinstance(fit, Remove):
        return {family.bypass: {"bias": np.asarray(moments.mean_t, np.float32)}}
    segment = segment_of(family, layer, mlp, inputs=read_for(fit) != "hidden")
    if isinstance(fit, LeastSquares):
        found = regression.least_squares(moments, fit.ridge, readers(segment))
        affine = {"kernel": found.kernel, "bias": found.bias}
        return {family.last: {name: array.astype(np.float32) for name, array in affine.items()}}
    if not isinstance(fit, Units):
        raise TypeError(f"{family.site(layer)}: got {fit}, which a folder has no form of.")
    last = np.asarray(mlp[family.last]["kernel"])
    if len(last) == fit.count and not fit.linear:
        kernel, offset = _refitted(moments, fit.ridge, last)
        return narrowed(family, mlp, np.arange(len(last)), kernel, {"bias": offset})
    statistics = SplitMoments({_KEY: moments}, {_KEY: jax.tree.map(np.zeros_like, moments)})
    replaced = solve_checked(fit, segment, statistics)
    new = replaced.layers[1].params
    if new is None or replaced.bypass is None:
        raise TypeError(f"{family.site(layer)}: {fit} changes nothing; keep the layer.")
    return narrowed(family, mlp, np.asarray(replaced.units), new["kernel"], replaced.bypass)


def narrowed_first(family: Family, mlp: Mapping[str, Any], units: np.ndarray) -> MLP:
    """Returns the first layers of an MLP with some of its hidden units alone."""
    return {
        name: {key: array[..., units] for key, array in mlp[name].items()} for name in family.first
    }


def bytes_of_fit(family: Family, fit: Fit) -> int:
    """Returns the bytes that the moments of a fit, and solving it, take."""
    columns = family.width
    if isinstance(fit, Units):
        columns = pool_size(family, fit) + (family.width if fit.linear else 0)
    return bytes_needed(columns, family.width)


def bytes_needed(columns: int, width: int) -> int:
    """Returns the bytes that moments of so many values, and solving a fit from them, take.

    Example:
      >>> bytes_needed(1536, 384)
      155713536
    """
    if columns <= _WIDE:
        return 60 * columns**2 + 24 * columns * width
    return 12 * columns**2 + 24 * columns * width  # moments in float32, a matrix in float64


def _check(site: str, moments: Moments) -> None:
    if float(moments.count) < 2:
        raise CollapseError(
            f"{site}: got {int(moments.count)} tokens to fit on, expected many. Give more texts."
        )
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(moments)):
        raise CollapseError(
            f"{site}: its values are not finite on these texts. Look at the weights of this model."
        )


def _refitted(moments: Moments, ridge: float, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of the regression on all units that are read."""
    if len(rows) > _WIDE:
        found = ridge_in_place(moments, ridge, rows)
        if found is not None:
            return found
    solved = regression.least_squares(moments, ridge, rows, prior=rows.astype(np.float64))
    return solved.kernel, solved.bias


def narrowed(
    family: Family, mlp: MLP, units: np.ndarray, kernel: np.ndarray, bypass: Mapping[str, Any]
) -> MLP:
    """Returns an MLP of some hidden units with a new last kernel.

    Args:
      family: of the layer.
      mlp: its params.
      units: indices of the hidden units that stay, increasing.
      kernel: of the last layer, (len(units), width).
      bypass: the affine map next to the units.
    """
    return {
        **jax.device_get(narrowed_first(family, mlp, units)),
        family.act: mlp[family.act],
        family.last: {"kernel": kernel.astype(np.float32)},
        family.bypass: {name: np.asarray(array, np.float32) for name, array in bypass.items()},
    }
