"""The solver that makes two factors of each kernel of an MLP: that of `LowRank`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lcjax.algebra import regression
from lcjax.algebra.fuse import DenseParams
from lcjax.algebra.moments import Moments, submoments
from lcjax.algebra.sharding import place_dense
from lcjax.calibration.candidates import candidates_of
from lcjax.calibration.low_rank import LowRank
from lcjax.errors import CollapseError
from lcjax.structure.replacement import NewLayer, Replacement, SegmentFit
from lcjax.structure.segment import Segment
from lcjax.surgery.solvers import require_values
from lcjax.surgery.unit_solver import solve

__all__ = ["solve"]


class Decomposed(NamedTuple):
    """An affine map that is to have a low rank, decomposed in the metric of its inputs.

    The metric is `E ‖(x − c) (W − M)‖²`.

    Attributes:
      kernel: W, (d_in, d_out), float64.
      bias: (d_out,); None for none.
      centre: c, the mean of the inputs where the map has a bias; zeros where it has none.
      values: singular values, largest first.
      rows: right singular vectors, in rows.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    centre: np.ndarray
    values: np.ndarray
    rows: np.ndarray


# Layers of one site by their place, decomposed once for all ranks.
Known = dict[tuple[str, int], Decomposed]


@solve.register
def _(
    fit: LowRank, segment: Segment, statistics: Any = None, known: Known | None = None
) -> Replacement:
    require_values(segment)
    _check_pair(segment, statistics)
    moments, d_in = statistics.train[segment.key], segment.d_in
    first, last = segment.layers
    inputs = submoments(moments, np.arange(d_in))
    errors: list[float] = []
    known = {} if known is None else known

    def factored(layer: DenseParams, place: tuple[str, int], find: Callable) -> NewLayer:
        if not _saves(layer["kernel"].shape, fit.rank):
            return NewLayer(None, place[1:])
        if place not in known:
            known[place] = find(layer)
        errors.append(regression.truncation_errors(known[place].values)[fit.rank])
        return _factored(known[place], layer, fit.rank, place[1])

    def as_it_is(layer: DenseParams) -> Decomposed:
        return _decomposed(layer, inputs)

    def refitted(layer: DenseParams) -> Decomposed:
        hidden = submoments(moments, np.arange(d_in, d_in + first["kernel"].shape[-1]))
        return _regressed(layer, hidden, fit.ridge)

    before, gates, after, bypass = NewLayer(None, (0,)), (), NewLayer(None, (1,)), None
    if segment.entry is None:
        before = factored(first, ("layer", 0), as_it_is)
        gates = tuple(factored(gate, ("gate", i), as_it_is) for i, gate in enumerate(segment.gates))
    if segment.ends:
        after = factored(last, ("layer", 1), refitted)
    if after.factor is not None and segment.joints[0].bypass is not None:
        narrow = np.zeros((first["kernel"].shape[-1], fit.rank))  # it is added between the factors
        bypass = {"bias": place_dense(narrow, narrow[0], last, last)["bias"]}
    score = SegmentFit(sites=segment.sites, fit=fit.name, notes=("kernels stay as they are",))
    if errors:
        score = replace(score, rank=fit.rank, truncation=float(max(errors)), notes=())
    return Replacement(
        layers=(before, after), collapsed=(), bypass=bypass, gates=gates, fits=(score,)
    )


def _decomposed(layer: DenseParams, moments: Moments) -> Decomposed:
    """Returns a layer as it is, decomposed in the metric of its inputs."""
    kernel = np.asarray(layer["kernel"], np.float64)
    mean, count = np.asarray(moments.mean_x, np.float64), float(moments.count)
    metric = np.asarray(moments.xx, np.float64) / count
    if "bias" not in layer:
        metric, mean = metric + np.outer(mean, mean), np.zeros_like(mean)
    values, vectors = np.linalg.eigh(metric)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    bias = np.asarray(layer["bias"], np.float64) if "bias" in layer else None
    return Decomposed(kernel, bias, mean, *regression.svd_in_metric(kernel, root))


def _regressed(layer: DenseParams, hidden: Moments, ridge: float) -> Decomposed:
    """Returns the regression of a layer's outputs on its inputs, decomposed in their metric."""
    deep = np.asarray(layer["kernel"], np.float64)
    kernel, bias, root, _ = regression.least_squares(hidden, ridge, deep, prior=deep)
    centre = np.asarray(hidden.mean_x, np.float64)
    return Decomposed(kernel, bias, centre, *regression.svd_in_metric(kernel, root))


def _factored(found: Decomposed, layer: DenseParams, rank: int, index: int) -> NewLayer:
    """Returns two factors of a map, in the place of a layer."""
    first, second = regression.low_rank_factors(found.kernel, found.rows[:rank])
    bias = found.bias
    if bias is not None:
        bias = bias + found.centre @ (found.kernel - first @ second)
    params = place_dense(second, bias, layer, layer)
    return NewLayer(params, (index,), place_dense(first, None, layer, layer))


def _saves(shape: tuple[int, ...], rank: int) -> bool:
    return rank * sum(shape[-2:]) < shape[-2] * shape[-1]


def _check_pair(segment: Segment, statistics: Any) -> None:
    """Raises unless the layers around the site are whole, with moments of all hidden units."""
    joint = segment.joints[0]
    if joint.bypass is not None and "kernel" in joint.bypass:
        raise CollapseError(
            f"{segment.label}: got a linear map next to the units, as an earlier collapse left; "
            "expected none for LowRank. Collapse the deep model, or take another fit."
        )
    if len(candidates_of(statistics, segment)) < segment.widths[1]:
        raise CollapseError(
            f"{segment.label}: got moments of some of its {segment.widths[1]:,} units, expected "
            "those of all for LowRank. Calibrate for LowRank, or without candidates=."
        )
