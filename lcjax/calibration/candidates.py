"""Candidates: the hidden units whose moments are collected where all would be too many."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lcjax.algebra.fuse import affine
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Fit, Units
from lcjax.calibration.statistics import SplitMoments, collect_statistics
from lcjax.calibration.weighting import pull_of
from lcjax.structure.front_end import Collapsible, Observe
from lcjax.structure.segment import Segment
from lcjax.validation.batches import check_batches

# Copies of moments on the device: to fit on and held out, of all batches and of the present one.
_COPIES = 4
SMALL_BYTES = 2**29  # moments of all units are collected up to this


def collect_for_fit(
    model: Collapsible,
    segments: Sequence[Segment],
    data: CalibrationData,
    fit: Fit,
    compact: Any = None,
) -> SplitMoments:
    """Returns the statistics of segments from which a fit is solved.

    One pass over the data; two where only some hidden units are measured.

    Args:
      model: the model that is observed.
      segments: segments of the model, or of `model.with_variables(compact)`.
      data: the batches; re-iterable for two passes.
      fit: the fit of all segments.
      compact: as for `collect_statistics`.
    """
    pull = pull_of(data)
    observe = model.observe(segments, fit.observed, pull)
    parts = [part for segment in segments if segment.experts for part in segment.id.parts]
    rare = {name for part in parts for name in (part.key, *part.sites)}
    wide = {}
    if isinstance(fit, Units):
        counts = {segment: candidate_count(fit, segment) for segment in segments}
        wide = {segment: count for segment, count in counts.items() if count < _width(segment)}
    if not wide:
        return collect_statistics(observe, model.variables, data, fit.observed, compact, rare)
    check_batches(data.batches, more_than_once="candidates among units and their moments")
    alone = model.observe(list(wide), "unit", pull)
    units = collect_statistics(alone, model.variables, data, "unit", compact).train
    chosen = {
        segment.key: np.sort(np.argsort(-_strengths(segment, units))[:count])
        for segment, count in wide.items()
    }
    columns = {
        segment.key: np.concatenate([np.arange(segment.d_in), segment.d_in + chosen[segment.key]])
        for segment in wide
    }
    observe = _of_columns(observe, columns)
    groups = collect_statistics(observe, model.variables, data, fit.observed, compact)
    return SplitMoments(
        *(
            {key: replace(one, units=chosen.get(key)) for key, one in moments.items()}
            for moments in groups
        )
    )


def candidates_of(statistics: Any, segment: Segment) -> np.ndarray:
    """Returns the indices of the hidden units whose moments statistics hold, increasing."""
    units = statistics.train[segment.key].units
    return np.arange(_width(segment)) if units is None else np.asarray(units)


def candidate_count(fit: Units, segment: Segment) -> int:
    """Returns for how many units of a segment moments are collected; see `Units`."""
    width, d_in, d_out = _width(segment), segment.d_in, segment.d_out
    if fit.candidates is not None:
        return min(fit.candidates, width)
    if moment_bytes(d_in, width, d_out) <= SMALL_BYTES:
        return width
    kernels = [layer["kernel"] for layer in (*segment.layers, *segment.gates)]
    bound = 3 * sum(math.prod(kernel.shape) * kernel.dtype.itemsize for kernel in kernels)
    # (d_in + c)² + d_out (d_in + c) = bound
    numbers = bound / (4 * _COPIES)
    together = math.sqrt(d_out**2 / 4 + numbers) - d_out / 2
    return min(max(fit.count, int(together) - d_in, 1), width)


def moment_bytes(d_in: int, units: int, d_out: int) -> int:
    """Returns the bytes on the device that moments of `[x, h]` and t take at most.

    Example:
      >>> moment_bytes(384, 1536, 384)
      70778880
    """
    together = d_in + units
    return 4 * _COPIES * together * (together + d_out)


def _strengths(segment: Segment, units: Mapping[str, Any]) -> np.ndarray:
    """Returns the variance of each hidden unit times the squared norm of its row; (width,)."""
    moments, after = units[segment.sites[0]], segment.joints[0].after
    variance = np.asarray(moments.tt, np.float64) / np.asarray(moments.count, np.float64)
    if after is not None:
        variance = variance * np.asarray(affine(np, after).scale) ** 2
    rows = np.asarray(segment.layers[-1]["kernel"], np.float64)
    return variance * (rows**2).sum(1)


def _of_columns(observe: Observe, columns: Mapping[str, np.ndarray]) -> Observe:
    """Returns a function that observes some inputs alone, by key."""

    def narrowed(variables: Any, compact: Any, batch: tuple[Any, ...]) -> Any:
        pairs = dict(observe(variables, compact, batch))
        for key, kept in columns.items():
            pairs[key] = [(x[..., kept], *rest) for x, *rest in pairs[key]]
        return pairs

    return narrowed


def _width(segment: Segment) -> int:
    return segment.layers[-1]["kernel"].shape[-2]
