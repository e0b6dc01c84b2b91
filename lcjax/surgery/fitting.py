"""Replacements that are fitted to data."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lcjax.algebra import regression as fits
from lcjax.algebra.fuse import Affine, Between, Norm, affine, cheapest_cuts, parameters
from lcjax.algebra.fuse import DenseParams as Dense
from lcjax.algebra.placement import place_dense
from lcjax.calibration.calibrate import Calibration
from lcjax.structure.chains import Chain
from lcjax.structure.runs import Run
from lcjax.surgery.replacement import (
    Replace,
    Replacement,
    Truncation,
    fused,
    need_values,
    two,
    widths,
)
from lcjax.surgery.report import SegmentFit


def fitted(stats: Calibration, ridge: float, truncation: Truncation) -> Replace:
    """Returns the replacement by the fit that statistics were gathered for."""

    def replace(chain: Chain, run: Run, norms: Mapping[int, Norm]) -> Replacement:
        if stats.fit == "moments":
            return _by_moments(chain, run, norms, stats, truncation)
        return _by_least_squares(chain, run, stats, ridge, truncation)

    return replace


def _by_moments(
    chain: Chain,
    run: Run,
    norms: Mapping[int, Norm],
    stats: Calibration,
    truncation: Truncation,
) -> Replacement:
    """Returns the fuse with a gain and an offset for every unit in the activations' place."""
    need_values(run, [chain.denses[i] for i in run.denses])
    between: dict[int, Between] = dict(norms)
    told = []
    for i, site in zip(run.acts, run.sites, strict=True):
        (gain, offset, dead), after = fits.per_unit_regression(stats.fitted[site]), chain.after(i)
        notes = [f"{dead.sum():,} of {len(dead):,} units dead"] if dead.any() else []
        told.append(_judged((site,), stats, site, gain, offset, notes))
        if after in norms:
            scale, shift = affine(np, norms[after])
            gain, offset = scale * gain, scale * offset + shift
        between[after] = Affine(gain, offset)
    parts, truncated = fused(chain, run, between, truncation, "moments")
    return Replacement(parts, (*told, *truncated))


def _by_least_squares(
    chain: Chain, run: Run, stats: Calibration, ridge: float, truncation: Truncation
) -> Replacement:
    """Returns the ridge regression of a run's outputs on its inputs, through its bottleneck."""
    denses, moments = [chain.denses[i] for i in run.denses], stats.fitted[run.last]
    need_values(run, denses)
    kernel, bias, root, determined = fits.least_squares(moments, ridge, _entry(chain, denses[0]))
    notes = fits.rank_deficiency(int(moments.count), run.d_in, determined)
    if unvarying := fits.count_constant_inputs(moments):
        notes.append(f"{unvarying:,} of {run.d_in:,} inputs never vary")
    cuts = cheapest_cuts(widths(denses))
    rank, lost = None, {}
    if len(cuts) > 2 or truncation.rank is not None:
        values, rows = fits.svd_in_metric(kernel, root)
        rank = truncation.kept(values, run, parameters(widths(denses), cuts))
        if rank is None and len(cuts) > 2:
            # Of all cuts of a run, a single one at the narrowest width leaves the fewest weights.
            rank = min(widths(denses)[cuts[1]], len(values))
    if rank is None:
        parts = [(run.denses, place_dense(kernel, bias, denses[0], denses[-1]))]
    else:
        factors = fits.low_rank_factors(kernel, rows[:rank])
        lost = {"rank": rank, "truncation": float(fits.truncation_errors(values)[rank])}
        kernel, whole = factors[0] @ factors[1], kernel
        bias = bias + np.asarray(moments.mean_x, np.float64) @ (whole - kernel)
        parts = two(chain, run, factors, bias)
    return Replacement(parts, (_judged(run.sites, stats, run.last, kernel, bias, notes, **lost),))


def _entry(chain: Chain, first: Dense) -> np.ndarray:
    """Returns the kernels that a run's inputs flow into, side by side."""
    kernels = [first["kernel"], *([chain.gate["kernel"]] if chain.gate else [])]
    return np.concatenate([np.asarray(kernel, np.float64) for kernel in kernels], axis=1)


def _judged(
    sites: tuple[str, ...],
    stats: Calibration,
    key: str,
    kernel: np.ndarray,
    bias: np.ndarray,
    notes: list[str],
    **lost: Any,
) -> SegmentFit:
    """Returns how well a map does on the tokens that it was fitted on, and on those held out."""
    own, other = stats.fitted[key], stats.held[key]
    (error, r2), (held_error, held_r2) = (fits.score(m, kernel, bias) for m in (own, other))
    return SegmentFit(
        sites=sites,
        fit=stats.fit,
        tokens=int(own.count),
        held_tokens=int(other.count),
        error=error,
        held_error=held_error,
        r2=r2,
        held_r2=held_r2,
        notes=tuple(notes),
        **lost,
    )
