"""Solvers: from a segment, and statistics of its values, to its replacement."""

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.algebra import regression
from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.bypasses import widen
from lcjax.algebra.fuse import (
    Affine,
    Between,
    DenseParams,
    affine,
    cheapest_cuts,
    compose,
    fuse_dense,
    parameters,
)
from lcjax.algebra.sharding import place_dense
from lcjax.calibration.fits import Exact, Fit, LeastSquares, PerUnit
from lcjax.errors import CollapseError
from lcjax.structure.replacement import NewLayer, Replacement, SegmentFit
from lcjax.structure.segment import Segment


@singledispatch
def solve(fit: Fit, segment: Segment, statistics: Any = None) -> Replacement:
    """Returns what takes the place of a segment.

    A new kind of fit registers its solver: `@solve.register` on a function of these arguments.

    Args:
      fit: how to find it; `Exact`, `PerUnit`, `LeastSquares`, `Units`, `LowRank` or `Remove`.
      segment: its layers need values, except for an exact fuse without a rank, which takes
        tracers and ShapeDtypeStructs too.
      statistics: a `Calibration` or `SplitMoments` with the keys of the segment (its sites for
        `PerUnit`, `segment.key` for others); None for `Exact`.

    Raises:
      CollapseError: traced, stacked or complex values where a fit or a rank needs others.
    """
    raise TypeError(f"no solver for {type(fit).__name__}; register one with solve.register.")


@solve.register
def _(fit: Exact, segment: Segment, statistics: Any = None) -> Replacement:
    between = [compose(joint.before, joint.linear, joint.after) for joint in segment.joints]
    return _fused(fit, segment, between)


@solve.register
def _(fit: PerUnit, segment: Segment, statistics: Any = None) -> Replacement:
    require_values(segment)
    between, fits = [], []
    for joint in segment.joints:
        if joint.site is None:
            between.append(compose(joint.before, joint.linear, joint.after))
            continue
        gain, offset, dead = regression.per_unit_regression(statistics.train[joint.site])
        notes = [f"{dead.sum():,} of {len(dead):,} units dead"] if dead.any() else []
        fits.append(score_fit(fit, (joint.site,), statistics, joint.site, gain, offset, notes))
        between.append(compose(_wide(joint.before), Affine(gain, offset), _wide(joint.after)))
    replaced = _fused(fit, segment, between)
    return replace(replaced, fits=(*fits, *replaced.fits))


@solve.register
def _(fit: LeastSquares, segment: Segment, statistics: Any = None) -> Replacement:
    require_values(segment)
    moments, last = statistics.train[segment.key], len(segment.layers)
    wide, _ = _without_bypasses(segment, [None] * len(segment.joints))
    widths = _widths(wide)
    kernel, bias, root, determined = regression.least_squares(moments, fit.ridge, readers(segment))
    notes = regression.rank_deficiency(int(moments.count), segment.d_in, determined)
    if constant := int(regression.constant_inputs(moments).sum()):
        notes.append(f"{constant:,} of {segment.d_in:,} inputs never vary")
    cuts = cheapest_cuts(widths)
    rank, lost = None, {}
    if len(cuts) > 2 or fit.rank is not None:
        values, rows = regression.svd_in_metric(kernel, root)
        rank = _choose_rank(fit, values, segment, parameters(widths, cuts))
        if rank is None and len(cuts) > 2:
            # Of all cuts of a segment, a single one at the narrowest width leaves the fewest
            # weights.
            rank = min(widths[cuts[1]], len(values))
    if rank is None:
        params = place_dense(kernel, bias, segment.layers[0], segment.layers[-1])
        layers = (NewLayer(params, tuple(range(last))),)
    else:
        factors = regression.low_rank_factors(kernel, rows[:rank])
        lost = {"rank": rank, "truncation": float(regression.truncation_errors(values)[rank])}
        kernel, full = factors[0] @ factors[1], kernel
        bias = bias + np.asarray(moments.mean_x, np.float64) @ (full - kernel)
        layers = _factor_pair(segment, wide, factors, bias)
    score = score_fit(fit, segment.sites, statistics, segment.key, kernel, bias, notes, **lost)
    return Replacement(layers=layers, collapsed=segment.sites, fits=(score,))


def _choose_rank(fit: Fit, values: np.ndarray, segment: Segment, weights: int) -> int | None:
    """Returns the rank of two factors, or None where two factors of it would not be smaller.

    Args:
      fit: says the rank.
      values: the singular values.
      segment: that is replaced.
      weights: number of weights of the replacement otherwise.
    """
    if fit.rank == "auto":
        within = regression.truncation_errors(values)[1:] <= fit.tolerance
        rank = 1 + int(within.argmax())
    else:
        rank = min(fit.rank or 0, len(values))
    return rank if 0 < rank * (segment.d_in + segment.d_out) < weights else None


def _fused(fit: Fit, segment: Segment, between: Sequence[Between]) -> Replacement:
    """Returns a segment multiplied together, with maps between its layers."""
    layers, between = _without_bypasses(segment, between)
    widths = _widths(layers)
    ahead = [None, *between]  # what is applied before each layer
    biased = [
        "bias" in layer or (one is not None and getattr(one, "shift", ()) is not None)
        for layer, one in zip(layers, ahead, strict=True)
    ]
    cuts = cheapest_cuts(widths, biased)
    if fit.rank is not None:
        require_values(segment)
        wide = [{name: np.asarray(a, np.float64) for name, a in each.items()} for each in layers]
        whole = fuse_dense(wide, [_wide(one) for one in ahead])
        values, rows = regression.svd_in_metric(whole["kernel"])
        rank = _choose_rank(fit, values, segment, parameters(widths, cuts))
        if rank is not None:
            factors = regression.low_rank_factors(whole["kernel"], rows[:rank])
            error = float(regression.truncation_errors(values)[rank])
            lowered = SegmentFit(sites=segment.sites, fit=fit.name, rank=rank, truncation=error)
            new = _factor_pair(segment, layers, factors, whole.get("bias"))
            return Replacement(layers=new, collapsed=segment.sites, fits=(lowered,))
    new = []
    for start, end in pairwise(cuts):
        stays = end - start == 1 and ahead[start] is None and layers[start] is segment.layers[start]
        fused = None if stays else fuse_dense(layers[start:end], ahead[start:end])
        new.append(NewLayer(fused, tuple(range(start, end))))
    return Replacement(layers=tuple(new), collapsed=segment.sites)


def _without_bypasses(
    segment: Segment, between: Sequence[Between]
) -> tuple[list[DenseParams], list[Between]]:
    """Returns the layers of a segment, and the maps between them, with its bypasses in them."""
    bypasses = [joint.bypass for joint in segment.joints]
    if not any(bypasses):
        return list(segment.layers), list(between)
    return widen(segment.layers, between, bypasses, segment.entry.width if segment.entry else 0)


def _widths(layers: Sequence[DenseParams]) -> list[int]:
    kernels = [layer["kernel"] for layer in layers]
    return [kernels[0].shape[-2], *(kernel.shape[-1] for kernel in kernels)]


def readers(segment: Segment) -> np.ndarray:
    """Returns the kernels that read a segment's input in one; (d_in, widths together)."""
    kernels = [layer["kernel"] for layer in (segment.layers[0], *segment.gates)]
    kernels = [np.asarray(kernel, np.float64) for kernel in kernels]
    if (bypass := segment.joints[0].bypass) and "kernel" in bypass:
        own = np.zeros((segment.d_in, bypass["kernel"].shape[-1]))
        own[-bypass["kernel"].shape[-2] :] = bypass["kernel"]
        kernels.append(own)
    return np.concatenate(kernels, axis=1)


def _factor_pair(
    segment: Segment,
    layers: Sequence[DenseParams],
    factors: tuple[np.ndarray, np.ndarray],
    bias: np.ndarray | None,
) -> tuple[NewLayer, ...]:
    """Returns two factors as the layers of a replacement, cut where that is cheapest."""
    cuts = cheapest_cuts(_widths(layers))
    first_site = next(i for i, joint in enumerate(segment.joints) if joint.site is not None)
    cut = cuts[1] if len(cuts) > 2 else first_site + 1
    first = place_dense(factors[0], None, layers[0], layers[cut - 1])
    second = place_dense(factors[1], bias, layers[cut], layers[-1])
    everywhere = tuple(range(len(layers)))
    return (NewLayer(first, everywhere[:cut]), NewLayer(second, everywhere[cut:]))


def _wide(each: Between) -> Affine | None:
    return None if each is None else affine(np, each)


def score_fit(
    fit: Fit,
    sites: tuple[str, ...],
    statistics: Any,
    key: str,
    kernel: np.ndarray,
    bias: np.ndarray,
    notes: Sequence[str],
    **lost: Any,
) -> SegmentFit:
    """Returns how well a map does on the tokens that it was fitted on, and on those held out."""
    train, held_out = statistics.train[key], statistics.held_out[key]
    (error, r2), (other_error, other_r2) = (
        regression.score(moments, kernel, bias) for moments in (train, held_out)
    )
    return SegmentFit(
        sites=sites,
        fit=fit.name,
        tokens=int(train.count),
        held_out_tokens=int(held_out.count),
        error=error,
        held_out_error=other_error,
        r2=r2,
        held_out_r2=other_r2,
        notes=tuple(notes),
        **lost,
    )


def require_values(segment: Segment) -> None:
    """Raises unless a segment's arrays have values and are of one layer."""
    leaves = jax.tree.leaves(segment.layers)
    if any(map(is_abstract, leaves)):
        raise CollapseError(
            f"{segment.names[0]}: traced or abstract, but fits and ranks need values. Collapse "
            "outside jit."
        )
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
        raise CollapseError(
            f"{segment.names[0]}: got complex numbers, but fits and ranks are of real ones. "
            "Collapse with lcjax.Exact() and without a rank."
        )
    if segment.stacked:
        shape = tuple(segment.layers[0]["kernel"].shape)
        raise CollapseError(
            f"{segment.names[0]}: kernel {shape} is of stacked layers, which have no one rank. "
            "Unstack the layers, or leave rank out."
        )
