"""Solvers that keep some hidden units, or none: those of `Units` and `Remove`."""

from dataclasses import replace
from typing import Any

import numpy as np

from lcjax.algebra import regression
from lcjax.algebra.moments import Moments, submoments
from lcjax.algebra.sharding import place_dense
from lcjax.algebra.unit_selection import Order, order_units
from lcjax.calibration.candidates import candidates_of
from lcjax.calibration.fits import Remove, Units
from lcjax.calibration.statistics import SplitMoments
from lcjax.errors import CollapseError
from lcjax.structure.replacement import NewLayer, Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.solvers import readers, require_values, score_fit, solve

__all__ = ["solve"]


@solve.register
def _(fit: Remove, segment: Segment, statistics: Any = None) -> Replacement:
    require_values(segment)
    moments = statistics.train[segment.key]
    bias = np.asarray(moments.mean_t, np.float64)
    nothing = np.zeros(moments.xt.shape)
    score = score_fit(fit, segment.sites, statistics, segment.key, nothing, bias, ())
    last = segment.layers[-1]
    placed = place_dense(nothing, bias, segment.layers[0], last)["bias"]
    return Replacement(layers=(), collapsed=segment.sites, bypass={"bias": placed}, fits=(score,))


@solve.register
def _(
    fit: Units, segment: Segment, statistics: Any = None, order: Order = order_units
) -> Replacement:
    require_values(segment)
    first, last = segment.layers
    width, d_in = last["kernel"].shape[-2], segment.d_in
    if fit.count > width:
        raise CollapseError(
            f"{segment.label}: got {fit.count:,} units to keep, expected at most its width, "
            f"{width:,}. Give a smaller count."
        )
    pool = candidates_of(statistics, segment)
    if fit.count == width and not fit.linear:
        return _all_kept(fit, segment, statistics, pool)
    if fit.count > len(pool):
        raise CollapseError(
            f"{segment.label}: got {fit.count:,} units to keep, but moments of {len(pool):,} "
            "candidates. Calibrate for this count, or with more candidates."
        )
    own = np.arange(segment.entry.width if segment.entry else 0, d_in)
    if not fit.count:
        return solve(fit.reduced(), segment, _of_columns(statistics, segment.key, np.arange(d_in)))
    moments = statistics.train[segment.key]
    selected, dead = _selected(moments, fit, own if fit.linear else own[:0], d_in, order)
    units = pool[selected]
    columns = np.concatenate([own[: len(own) * fit.linear], d_in + selected])
    chosen = _of_columns(statistics, segment.key, columns)
    groups = [readers(segment)[own]] if fit.linear else []
    rows = np.asarray(last["kernel"], np.float64)[units]
    train = chosen.train[segment.key]
    prior = np.zeros(train.xt.shape)
    prior[-len(units) :] = rows
    if fit.linear:
        prior[: len(own)] = _through(segment)[own]
    kernel, bias, _, rank = regression.least_squares(train, fit.ridge, *groups, rows, prior=prior)
    notes = regression.rank_deficiency(int(train.count), len(columns), rank)
    notes += [f"{dead:,} of {len(pool):,} units never vary"] if dead else []
    score = score_fit(fit, segment.sites, chosen, segment.key, kernel, bias, notes)
    placed = place_dense(kernel[-len(units) :], bias, last, last)
    bypass = {"bias": placed["bias"]}
    if fit.linear:
        bypass = place_dense(kernel[: -len(units)], bias, first, last)
    layers = (NewLayer(None, (0,)), NewLayer({"kernel": placed["kernel"]}, (1,)))
    return Replacement(layers=layers, collapsed=(), units=units, bypass=bypass, fits=(score,))


def _selected(
    moments: Moments, fit: Units, given: np.ndarray, d_in: int, order: Order
) -> tuple[np.ndarray, int]:
    """Returns the units that stay, increasing, and how many of all never vary.

    Args:
      moments: of `[x, h]`.
      fit: says how many.
      given: columns of x that explain the output before any unit does.
      d_in: width of x.
      order: returns the order in which units explain the output.
    """
    width = len(moments.mean_x) - d_in
    constant = regression.constant_inputs(moments)
    alive = np.flatnonzero(~constant[d_in:])
    columns = np.concatenate([given[~constant[given]], d_in + alive])
    part = submoments(moments, columns)
    found = order(part.xx, part.xt, fit.count, given=len(columns) - len(alive))
    units = alive[found.units]
    # The other units add nothing to these; some of them make up the number requested.
    rest = np.setdiff1d(np.arange(width), units)
    rest = rest[np.argsort(constant[d_in + rest], kind="stable")]
    return np.sort(np.concatenate([units, rest[: fit.count - len(units)]])), width - len(alive)


def _all_kept(fit: Units, segment: Segment, statistics: Any, pool: np.ndarray) -> Replacement:
    """Returns the replacement that leaves every unit and the last kernel unchanged."""
    layers = (NewLayer(None, (0,)), NewLayer(None, (1,)))
    if len(pool) < segment.layers[-1]["kernel"].shape[-2]:
        return Replacement(layers=layers, collapsed=())
    last, bypass = segment.layers[-1], segment.joints[0].bypass or {}
    kernel = np.zeros(statistics.train[segment.key].xt.shape)
    kernel[segment.d_in :] = np.asarray(last["kernel"], np.float64)
    kernel[: segment.d_in] = _through(segment)
    bias = bypass.get("bias", last.get("bias", np.zeros(segment.d_out)))
    bias = np.asarray(bias, np.float64)
    score = score_fit(fit, segment.sites, statistics, segment.key, kernel, bias, ())
    return Replacement(layers=layers, collapsed=(), fits=(score,))


def _through(segment: Segment) -> np.ndarray:
    """Returns the linear map of the input that an earlier collapse left next to the units.

    (d_in, d_out), float64; zeros where there is none.
    """
    whole = np.zeros((segment.d_in, segment.d_out))
    bypass = segment.joints[0].bypass or {}
    if "kernel" in bypass:
        through = np.asarray(bypass["kernel"], np.float64)
        whole[segment.d_in - len(through) :] = through
    return whole


def reading_only(
    segment: Segment, statistics: Any, units: np.ndarray
) -> tuple[Segment, SplitMoments]:
    """Returns a segment, and its statistics, that reads only some units of the pair before it.

    Args:
      segment: two layers.
      statistics: of it, with its hidden units.
      units: that the pair before keeps, increasing.
    """
    start, d_in = segment.entry.width if segment.entry else 0, segment.d_in
    inputs = np.concatenate([np.arange(start), start + units])
    pool = candidates_of(statistics, segment)
    columns = np.concatenate([inputs, d_in + np.arange(len(pool))])
    first, *gates = (
        {**layer, "kernel": layer["kernel"][inputs]}
        for layer in (segment.layers[0], *segment.gates)
    )
    cut = replace(segment, layers=(first, segment.layers[1]), gates=tuple(gates))
    return cut, _of_columns(statistics, segment.key, columns)


def _of_columns(statistics: Any, key: str, columns: np.ndarray) -> SplitMoments:
    """Returns the moments of a segment with some of its inputs alone."""
    groups = (statistics.train, statistics.held_out)
    return SplitMoments(*({key: submoments(group[key], columns)} for group in groups))
