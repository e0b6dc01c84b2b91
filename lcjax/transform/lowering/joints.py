"""The affine maps between two Dense layers around the activation, as vectors over units."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.algebra.fuse import Affine
from lcjax.transform.analysis.affine_ops import AffineOp, compose
from lcjax.transform.lowering.weights import Leaves, vector
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.match import Match
from lcjax.transform.matching.unit_path import Outside, UnitPath


class SiteJoint(NamedTuple):
    """The affine maps around a site's activation.

    Attributes:
      before: of the activation's input, over the output units; None for the identity.
      on_gate: of the value of a gated unit without its gate: the scaling of the gate.
      after: of the activation's output.
      input_units: indices of the units of the Dense before that the activation reads.
      output_units: indices into these of the units that the Dense after reads, in its order.
    """

    before: Affine | None
    on_gate: Affine | None
    after: Affine | None
    input_units: np.ndarray
    output_units: np.ndarray


def joint_of(site: MatchedSite, leaves: Leaves) -> SiteJoint:
    """Returns the affine maps around a site's activation.

    Args:
      site: the site.
      leaves: arrays or ShapeDtypeStructs.
    """
    match = site.match
    input_units, output_units = joint_units(match)

    def by(step: AffineOp) -> Any:
        return _vector(step, site, leaves)

    before = _affine(match.before, match.up.d_out, by)
    on_gate = _affine(match.on_gate, len(input_units), by)
    after = _affine(match.after, len(input_units), by)
    return SiteJoint(
        _of_units(before, output_units),
        _of_units(on_gate, output_units),
        _of_units(after, _order(match)),
        input_units,
        output_units,
    )


def narrow_joint_of(
    site: MatchedSite, path: UnitPath, vectors: Sequence[Any], k: int, leaves: Leaves
) -> tuple[Affine | None, Affine | None, Affine | None]:
    """Returns the affine maps before the activation, of its gate and after it, over k units.

    Args:
      site: keeps k of its units.
      path: its operations.
      vectors: the values of `path.vectors`, cut by these units.
      k: number of units.
      leaves: arrays or ShapeDtypeStructs.
    """
    match = site.match
    own = {each: vector for each, vector in zip(path.vectors, vectors, strict=True)}
    steps = {(step.op, step.out.start): step for step in path.steps}

    def affine(ops: Sequence[AffineOp], start: int) -> Affine | None:
        """Returns a map, given which unit of its output is the first."""
        starts = [
            start + sum(o.unit_slice[0] for o in ops[i + 1 :] if o.unit_slice)
            for i in range(len(ops))
        ]
        kept = [step for step in ops if not step.unit_slice]
        at = {id(step): each for step, each in zip(ops, starts, strict=True)}

        def by(step: AffineOp) -> Any:
            for operand in steps[step.op, at[id(step)]].ins:
                if isinstance(operand, Outside) and operand in own:
                    return own[operand]
            whole = _vector(step, site, leaves)
            return whole if whole.ndim == 0 else select_units(whole, np.arange(k))

        return _affine(kept, k, by)

    inner = sum(step.unit_slice[0] for step in match.after if step.unit_slice)
    return affine(match.before, inner), affine(match.on_gate, inner), affine(match.after, 0)


def joint_units(match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Returns `input_units` and `output_units` of a site's joint."""
    input_units = _kept(np.arange(match.up.d_out), match.before)
    return input_units, _kept(np.arange(len(input_units)), match.after)[_order(match)]


def select_units(array: Any, units: np.ndarray) -> Any:
    """Returns these units of an array (..., d); the array itself if they are all, in order."""
    if len(units) == array.shape[-1] and (units == np.arange(len(units))).all():
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*array.shape[:-1], len(units)), array.dtype)
    return array[..., units]


def _affine(
    steps: Sequence[AffineOp], width: int, by_of: Callable[[AffineOp], Any]
) -> Affine | None:
    """Returns operations on `width` units as one map, given each one's factor or summand."""
    if not any(step.by is not None or step.op.name == "neg" for step in steps):
        return None
    vectors = [by_of(step) for step in steps if step.by is not None]
    shifts = any(step.shifts for step in steps)

    def fold(*vectors: Any) -> Affine:
        own = iter(vectors)
        scale, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        for step in steps:
            by = None if step.by is None else _wide(next(own))
            scale, shift = compose(step, scale, shift, by)
        return Affine(scale, shift if shifts else None)

    return _shaped(fold, *vectors)


def _vector(step: AffineOp, site: MatchedSite, leaves: Leaves) -> Any:
    """Returns the factor or summand of an operation over its units; a constant in NumPy."""
    assert step.by is not None
    constant = step.by.constant
    if constant is not None and not isinstance(constant, Tracer) and np.size(constant) == 1:
        return np.reshape(np.asarray(constant), ())
    return vector(step.by, step.roles, step.out.shape, leaves, site.scans)


def _of_units(affine: Affine | None, units: np.ndarray) -> Affine | None:
    """Returns these units of a scale and a shift."""
    if affine is None:
        return None
    shift = None if affine.shift is None else select_units(affine.shift, units)
    return Affine(select_units(affine.scale, units), shift)


def _kept(units: np.ndarray, steps: Sequence[AffineOp]) -> np.ndarray:
    for step in steps:
        units = units[step.unit_slice[0] : step.unit_slice[1]] if step.unit_slice else units
    return units


def _order(match: Match) -> np.ndarray:
    """Returns the units that the Dense after sums over, in the order of its axes."""
    down = match.down
    sizes = [down.kernel.shape[down.kernel_in[axis]] for axis in match.unit_axes]
    places = sorted(range(len(match.unit_axes)), key=lambda unit: match.unit_axes[unit])
    return np.arange(down.d_in).reshape(sizes).transpose(places).reshape(-1)


def _shaped(fn: Any, *arrays: Any) -> Any:
    """Returns the result of a function of arrays, abstract if an array is."""
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arrays))
    with jax.numpy_dtype_promotion("standard"):  # constants are NumPy's, and wide
        return jax.eval_shape(fn, *arrays) if abstract else fn(*arrays)


def _wide(array: Any) -> Any:
    """Returns an array in float64 if it is NumPy's, otherwise in float32 or wider."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float64)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
