"""Folding of linear hidden units into the bypass of their pair of layers.

A unit j whose slope is 1 is a linear function of the pair's input x, `h_j = x A_j + a_j`. What it
adds to the output, `h_j B_j`, is the bypass's: `W += A_j B_j`, `b += a_j B_j`. In a gated unit the
gate is then 1 and A the kernel of `up`; a norm after the activation scales and shifts h_j.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np

from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.fuse import Affine, DenseParams, affine, compose, fuse_dense
from lcjax.algebra.sharding import place_dense
from lcjax.calibration.fits import Fit
from lcjax.errors import CollapseError
from lcjax.structure.choice import Skip
from lcjax.structure.front_end import Collapsible, Rebuilt
from lcjax.structure.replacement import NewLayer, Replacement
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites, params_of
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.report import CollapseReport, make_report
from lcjax.surgery.solvers import solve
from lcjax.tree.paths import in_params, leaf_path, tree_order
from lcjax.tree.slopes import slopes as slopes_of

Linear = Mapping[str, np.ndarray]  # by site which units are linear, (d_hidden,)


def partly_linear(found: Sites, variables: Any, max_gap: float) -> Linear:
    """Returns the sites some of whose units are linear, and which of them are.

    Args:
      found: sites with their slopes; those of traced and abstract slopes and of stacked layers are
        left out.
      variables: the tree of the slopes.
      max_gap: largest gap of a linear unit.
    """
    paths = [site.path for site in found if site.linear_units is not None]
    slopes = slopes_of(variables) if paths else {}
    masks = {path: np.abs(1 - np.asarray(slopes[path], np.float64)) <= max_gap for path in paths}
    partly = {path: mask for path, mask in masks.items() if mask.any() and not mask.all()}
    return {path: mask for path, mask in partly.items() if mask.ndim == 1}


def worth_folding(model: Collapsible, linear: Linear) -> Linear:
    """Returns those of the sites whose linear units have more weights than a map for them."""
    pairs = {path: model.segments([path])[0].pair for path in linear}
    return {path: mask for path, mask in linear.items() if not _too_few(pairs[path], mask)}


def fold_linear_units(
    model: Collapsible, rebuilt: Rebuilt, report: CollapseReport, linear: Linear
) -> tuple[Any, CollapseReport]:
    """Returns the tree with linear units folded where that makes it smaller, and the whole report.

    Args:
      model: before an exact collapse.
      rebuilt: what the collapse made of it.
      report: of the collapse, in which the sites of `linear` are skipped.
      linear: in forward order.
    """
    input_leaves, touched = _paths(model.variables), set(rebuilt.touched)
    for path, mask in linear.items():
        now = model.with_variables(rebuilt.tree)
        pair = now.segments([path])[0].pair
        skipped = tuple(skip for skip in report.skipped if skip.site != path)
        if skip := _neighbour(now, pair) or _too_few(pair, mask):
            report = replace(report, skipped=(*skipped, skip))
            continue
        folded = solve_checked(FoldUnits(linear=mask), pair)
        rebuilt = now.rebuild({pair: folded})
        part = make_report(now.sites, {pair: folded}, rebuilt, ())
        left, again = _paths(rebuilt.tree), not touched.isdisjoint(rebuilt.touched)
        touched |= {*rebuilt.touched}
        written = {*report.new_leaves, *rebuilt.written}
        report = replace(
            report,
            skipped=skipped,
            units=report.units | part.units,
            narrowed=(*report.narrowed, *part.narrowed),
            new_leaves=tuple(sorted(written & left, key=tree_order)),
            removed_leaves=tuple(sorted(input_leaves - left, key=tree_order)),
            parameters_after=part.parameters_after,
            flops_before=report.flops_before + part.flops_before * (not again),
            flops_after=report.flops_after + part.flops_after - part.flops_before * again,
        )
    return rebuilt.tree, report


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FoldUnits(Fit):
    """Folds the linear units of a pair of layers into its bypass, exactly.

    Attributes:
      linear: which units are, (d_hidden,); some, not all.
      rank: None.
      tolerance: not used.
    """

    name: ClassVar[str] = "exact"
    needs_data: ClassVar[bool] = False

    linear: np.ndarray


@solve.register
def _(fit: FoldUnits, segment: Segment, statistics: Any = None) -> Replacement:
    if any(map(is_abstract, jax.tree.leaves(segment.layers))):
        raise CollapseError(
            f"{segment.label}: traced or abstract kernels, but folding some of its units needs "
            "values. Collapse outside jit."
        )
    first, last = segment.layers
    rows, kernel, bias = _folded(segment, fit.linear)
    kept = NewLayer(place_dense(rows, None, last, last), (1,))
    return Replacement(
        layers=(NewLayer(None, (0,)), kept),
        collapsed=(),
        units=np.flatnonzero(~fit.linear),
        bypass=place_dense(kernel, bias, first, last),
    )


def _folded(segment: Segment, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the last kernel of the units that stay, and kernel and bias of the bypass; wide."""
    first, last = (_wide(layer) for layer in segment.layers)
    joint = segment.joints[0]
    between = compose(*jax.tree.map(np.asarray, (joint.before, joint.linear, joint.after)))
    if between is not None:
        between = _some(affine(np, between), linear)
    rows = last.pop("kernel")
    own = {name: leaf[..., linear] for name, leaf in first.items()}
    folded = fuse_dense([own, {"kernel": rows[linear], **last}], [None, between])
    kernel, bias = folded["kernel"], folded.get("bias", np.zeros(segment.d_out))
    if joint.bypass is not None:
        earlier = _wide(joint.bypass)
        kernel, bias = kernel + earlier.get("kernel", 0), bias + earlier["bias"]
    return rows[~linear], kernel, bias


def _too_few(segment: Segment, linear: np.ndarray) -> Skip | None:
    """Returns why linear units are not folded where that would save no parameters.

    A bypass with a kernel costs d_in · d_out once; a unit saves d_in + d_out and its biases.
    """
    (site,), count = segment.sites, int(linear.sum())
    saved, added = _parameters_of(segment, count), _new_parameters(segment)
    if saved > added:
        return None
    detail = f"({count:,} of {len(linear):,} have {saved:,} weights, a map for them {added:,})"
    return Skip(site, "few_linear_units", detail)


def _parameters_of(segment: Segment, units: int) -> int:
    """Returns the number of parameters of some units of a pair."""
    first, last = segment.layers
    before = [leaf for layer in (first, *segment.gates) for leaf in layer.values()]
    norm = getattr(segment.joints[0].after, "params", {})
    each = sum(math.prod(leaf.shape[:-1]) for leaf in before) + len(norm)
    return units * (each + last["kernel"].shape[-1])


def _new_parameters(segment: Segment) -> int:
    """Returns the number of parameters that a pair gets with a whole bypass."""
    earlier = segment.joints[0].bypass or {}
    has_bias = "bias" in earlier or "bias" in segment.layers[1]
    kernel = 0 if "kernel" in earlier else segment.d_in * segment.d_out
    return kernel + (0 if has_bias else segment.d_out)


def _neighbour(model: Collapsible, pair: Segment) -> Skip | None:
    """Returns why units are not folded: a neighbouring pair's bypass shares their input or output.

    What they add would pass through two pairs at once.
    """
    (site,) = pair.sites
    if pair.entry is not None and pair.entry.width:
        return Skip(site, "bypassed", pair.entry.name)
    parent = site.rpartition("/")[0]
    for other in model.sites.paths:
        if other != site and other.rpartition("/")[0] == parent:
            next_pair = model.segments([other])[0].pair
            if next_pair.names[0] == pair.names[1] and "kernel" in (
                next_pair.joints[0].bypass or {}
            ):
                return Skip(site, "bypassed", other)
    return None


def _paths(variables: Any) -> set[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params_of(variables))
    return {in_params(leaf_path(keys)) for keys, _ in leaves}


def _some(each: Affine, units: np.ndarray) -> Affine:
    return Affine(each.scale[units], None if each.shift is None else each.shift[units])


def _wide(dense: DenseParams) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(leaf) for name, leaf in dense.items()}
    return {
        name: array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        for name, array in arrays.items()
    }
