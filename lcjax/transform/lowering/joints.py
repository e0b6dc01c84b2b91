"""What stands between two Dense layers besides the activation, as vectors over units."""

from collections.abc import Sequence
from functools import reduce
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


class SiteJoint(NamedTuple):
    """What a site's linear steps do.

    Attributes:
      before: to what the activation is given; None for nothing. Over the units that go on.
      on_gate: to the value of a gated unit whose gate is gone, as to the gate.
      after: to what it returns.
      input_units: which units of the Dense before the activation is given.
      output_units: which of these go on, in the order in which the Dense after it counts them.
    """

    before: Affine | None
    on_gate: Affine | None
    after: Affine | None
    input_units: np.ndarray
    output_units: np.ndarray

    @property
    def both(self) -> Affine | None:
        """All in a row, the activation being the identity."""
        affines = [each for each in (self.before, self.on_gate, self.after) if each is not None]
        return reduce(_in_a_row, affines) if affines else None


def joint_of(site: MatchedSite, leaves: Leaves) -> SiteJoint:
    """Returns what a site's linear steps do.

    Args:
      site: the site.
      leaves: arrays or ShapeDtypeStructs.
    """
    match = site.match
    input_units, output_units = joint_units(match)
    before = _affine(site, match.before, match.up.d_out, leaves)
    on_gate = _affine(site, match.on_gate, len(input_units), leaves)
    after = _affine(site, match.after, len(input_units), leaves)
    return SiteJoint(
        _of_units(before, output_units),
        _of_units(on_gate, output_units),
        _of_units(after, _order(match)),
        input_units,
        output_units,
    )


def joint_units(match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Returns `started` and `gone_on` of a site's joint."""
    input_units = _kept(np.arange(match.up.d_out), match.before)
    return input_units, _kept(np.arange(len(input_units)), match.after)[_order(match)]


def select_units(array: Any, units: np.ndarray) -> Any:
    """Returns these units of an array (..., d); the array itself where they are all, in order."""
    if len(units) == array.shape[-1] and (units == np.arange(len(units))).all():
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*array.shape[:-1], len(units)), array.dtype)
    return array[..., units]


def _affine(
    site: MatchedSite, steps: Sequence[AffineOp], width: int, leaves: Leaves
) -> Affine | None:
    if not any(step.by is not None or step.op.name == "neg" for step in steps):
        return None
    vectors = [_vector(step, site, leaves) for step in steps if step.by is not None]
    shifts = any(step.shifts for step in steps)

    def fold(*vectors: Any) -> Affine:
        own = iter(vectors)
        scale, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        for step in steps:
            by = None if step.by is None else wide(next(own))
            scale, shift = compose(step, scale, shift, by)
        return Affine(scale, shift if shifts else None)

    return shaped(fold, *vectors)


def _vector(step: AffineOp, site: MatchedSite, leaves: Leaves) -> Any:
    """Returns what a step scales or shifts by, over its units; a known constant in NumPy."""
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


def _in_a_row(before: Affine, after: Affine) -> Affine:
    def both(before: Affine, after: Affine) -> Affine:
        shift = None if before.shift is None else after.scale * before.shift
        if after.shift is not None:
            shift = after.shift if shift is None else shift + after.shift
        return Affine(after.scale * before.scale, shift)

    return shaped(both, before, after)


def _kept(units: np.ndarray, steps: Sequence[AffineOp]) -> np.ndarray:
    for step in steps:
        units = units[step.unit_slice[0] : step.unit_slice[1]] if step.unit_slice else units
    return units


def _order(match: Match) -> np.ndarray:
    """Returns the units that the Dense after sums over, in its own order of their axes."""
    down = match.down
    sizes = [down.kernel.shape[down.kernel_in[axis]] for axis in match.unit_axes]
    places = sorted(range(len(match.unit_axes)), key=lambda unit: match.unit_axes[unit])
    return np.arange(down.d_in).reshape(sizes).transpose(places).reshape(-1)


def shaped(fn: Any, *arrays: Any) -> Any:
    """Returns what a function of arrays returns, in shapes where they are shapes."""
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arrays))
    with jax.numpy_dtype_promotion("standard"):  # constants are NumPy's, and wide
        return jax.eval_shape(fn, *arrays) if abstract else fn(*arrays)


def wide(array: Any) -> Any:
    """Returns an array in float64 if it is NumPy's, else in float32 or what it has beyond."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float64)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
