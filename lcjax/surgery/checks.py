"""Solving a segment with checks: of the arrays that go in, and of the numbers that come out."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.fuse import DenseParams
from lcjax.calibration.fits import Fit
from lcjax.errors import CollapseError
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.experts import solve_experts
from lcjax.surgery.low_rank_solver import solve
from lcjax.surgery.unit_solver import reading_only


def solve_checked(
    fit: Fit, segment: Segment, statistics: Any = None, **options: Any
) -> Replacement:
    """Returns what `solve` does, with all numbers finite.

    Tracers and ShapeDtypeStructs have no numbers to check.

    Args:
      fit: as for `solve`.
      segment: as for `solve`.
      statistics: as for `solve`.
      **options: of the solver of this kind of fit: `order` of `Units`, `known` of `LowRank`.

    Raises:
      CollapseError: arrays that are not real or complex floats, or that hold more than a kernel and
        a bias, or are on different devices; a result that is not finite. Names the sites.
    """
    if segment.experts and fit.needs_data:
        return solve_experts(solve_checked, fit, segment, statistics)
    for name, layer in zip(segment.names, segment.layers, strict=True):
        _check_dense(f"{segment.label}: {name}", layer)
    _check_devices(segment, jax.tree.leaves(segment.layers))
    with np.errstate(all="ignore"):
        replacement = solve(fit, segment, statistics, **options)
    layers = (*replacement.layers, *replacement.gates)
    written = [params for layer in layers for params in (layer.params, layer.factor)]
    for params in (*written, replacement.bypass):
        if params is not None and not _finite(params.values()):
            raise CollapseError(_why_not_finite(segment, params))
    return replacement


def solve_each(
    fit: Fit, segments: Iterable[Segment], statistics: Any = None
) -> dict[Segment, Replacement]:
    """Returns the replacements of segments from statistics of one pass.

    Where hidden units stay, a neighbouring site after them reads only those.

    Args:
      fit: for all of them.
      segments: in forward order.
      statistics: as for `solve`.
    """
    replacements: dict[Segment, Replacement] = {}
    left: dict[str, np.ndarray] = {}  # units that stay, by the layer that reads them
    for segment in segments:
        cut, given = segment, statistics
        if segment.names[0] in left:
            cut, given = reading_only(segment, statistics, left[segment.names[0]])
        solved = replacements[segment] = solve_checked(fit, cut, given)
        if solved.collapsed and any(segment.names[0] == each.names[-1] for each in [*replacements]):
            raise CollapseError(
                f"{segment.label}: got {fit} for neighbouring sites of one chain, which were "
                "calibrated alone; expected lcjax.LeastSquares() or lcjax.Remove(), which take "
                "them together. Calibrate with one of these."
            )
        if solved.units is not None:
            left[segment.names[-1]] = solved.units
    return replacements


def _check_dense(name: str, dense: DenseParams) -> None:
    others = sorted(set(dense) - {"kernel", "bias"})
    if others:
        raise CollapseError(
            f"{name}: got {', '.join(others)} besides its kernel, which fusing would lose; "
            "expected a kernel and perhaps a bias. Multiply scales into the kernel, or merge "
            "adapters, and collapse that."
        )
    for leaf, array in dense.items():
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise CollapseError(
                f"{name}/{leaf}: got dtype {array.dtype}, expected floating point. If it is "
                "quantized, dequantize it, collapse, and quantize the compact kernels again."
            )


def _check_devices(segment: Segment, leaves: Iterable[Any]) -> None:
    """Raises where arrays cannot be multiplied since they are in different places."""
    places: dict[str, None] = {}
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            devices = sorted(leaf.sharding.device_set, key=lambda device: device.id)
            places[f"{', '.join(map(str, devices))} ({leaf.sharding.memory_kind})"] = None
    if len(places) > 1:
        raise CollapseError(
            f"{segment.label}: got kernels in different places: {'; '.join(places)}; "
            "expected one. Move them together with jax.device_put, and collapse that."
        )


def _finite(leaves: Collection[Any]) -> bool:
    return any(map(is_abstract, leaves)) or all(bool(_all_finite(leaf)) for leaf in leaves)


def _all_finite(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _all_finite_on_device(leaf)
    return np.isfinite(leaf.astype(np.complex128 if leaf.dtype.kind == "c" else np.float64)).all()


@jax.jit
def _all_finite_on_device(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _why_not_finite(segment: Segment, params: Mapping[str, Any]) -> str:
    """Returns the message for a replacement that is not finite."""
    diverged = (
        "has NaN or infinite numbers, expected finite ones: training has diverged. Restore an "
        "earlier checkpoint."
    )
    for name, layer in zip(segment.names, segment.layers, strict=True):
        if not _finite(layer.values()):
            return f"{segment.label}: {name} {diverged}"
    for joint in segment.joints:
        between = [each and each[:2] for each in (joint.before, joint.linear, joint.after)]
        leaves = jax.tree.leaves((between, joint.bypass))
        if not _finite(leaves):
            return f"{segment.label}: a norm or scale between the Dense layers {diverged}"
    dtype = next(iter(params.values())).dtype
    return (
        f"{segment.label}: the replacement leaves the range of {dtype}, whose largest number is "
        f"{float(jnp.finfo(dtype).max):g}. Cast the kernels to a wider dtype, such as float32, and "
        "collapse that."
    )
