"""The solver that makes two factors of each kernel of an MLP: that of `LowRank`."""

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


class _Map(NamedTuple):
    """An affine map that is to have a low rank, and the metric of its inputs.

    Attributes:
      kernel: (d_in, d_out), float64.
      bias: (d_out,); None for none.
      root: R of `E ‖(x − c) (W − M)‖² = ‖R (W − M)‖²`, (d_in, d_in).
      centre: c, the mean of the inputs where the map has a bias; zeros where it has none.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    root: np.ndarray
    centre: np.ndarray


@solve.register
def _(fit: LowRank, segment: Segment, statistics: Any = None) -> Replacement:
    require_values(segment)
    _check_pair(segment, statistics)
    moments, d_in = statistics.train[segment.key], segment.d_in
    first, last = segment.layers
    inputs = submoments(moments, np.arange(d_in))
    errors: list[float] = []

    def factored(layer: DenseParams, index: int, of_inputs: Moments) -> NewLayer:
        return _factored(_map_of(layer, of_inputs), layer, fit.rank, index, errors)

    before, gates, after, bypass = NewLayer(None, (0,)), (), NewLayer(None, (1,)), None
    if segment.entry is None:
        before = factored(first, 0, inputs)
        gates = tuple(factored(gate, i, inputs) for i, gate in enumerate(segment.gates))
    if segment.ends and _saves(last["kernel"].shape, fit.rank):
        hidden = submoments(moments, np.arange(d_in, d_in + first["kernel"].shape[-1]))
        kernel, bias, root, _ = regression.least_squares(
            hidden, fit.ridge, np.asarray(last["kernel"], np.float64)
        )
        refitted = _Map(kernel, bias, root, np.asarray(hidden.mean_x, np.float64))
        after = _factored(refitted, last, fit.rank, 1, errors)
        if segment.joints[0].bypass is not None:  # it is added between the factors
            narrow = np.zeros((first["kernel"].shape[-1], fit.rank))
            bypass = {"bias": place_dense(narrow, narrow[0], last, last)["bias"]}
    score = SegmentFit(sites=segment.sites, fit=fit.name, notes=("kernels stay as they are",))
    if errors:
        score = replace(score, rank=fit.rank, truncation=float(max(errors)), notes=())
    return Replacement(
        layers=(before, after), collapsed=(), bypass=bypass, gates=gates, fits=(score,)
    )


def _map_of(layer: DenseParams, moments: Moments) -> _Map:
    """Returns a layer as it is, with the metric of its inputs."""
    kernel = np.asarray(layer["kernel"], np.float64)
    mean, count = np.asarray(moments.mean_x, np.float64), float(moments.count)
    metric = np.asarray(moments.xx, np.float64) / count
    if "bias" not in layer:
        metric, mean = metric + np.outer(mean, mean), np.zeros_like(mean)
    values, vectors = np.linalg.eigh(metric)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    bias = np.asarray(layer["bias"], np.float64) if "bias" in layer else None
    return _Map(kernel, bias, root, mean)


def _factored(each: _Map, layer: DenseParams, rank: int, index: int, errors: list) -> NewLayer:
    """Returns two factors of a map, or the layer unchanged where they would not be smaller.

    Adds the relative error of the output to `errors`.
    """
    if not _saves(each.kernel.shape, rank):
        return NewLayer(None, (index,))
    values, rows = regression.svd_in_metric(each.kernel, each.root)
    errors.append(regression.truncation_errors(values)[rank])
    first, second = regression.low_rank_factors(each.kernel, rows[:rank])
    bias = each.bias
    if bias is not None:
        bias = bias + each.centre @ (each.kernel - first @ second)
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
