"""What stands between two Dense layers besides the activation, as vectors over units."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.algebra.fuse import Affine
from lcjax.transform.analysis.affine_ops import Step, applied
from lcjax.transform.lowering.weights import Leaves, vector
from lcjax.transform.matching.find_sites import FoundSite
from lcjax.transform.matching.match import Match


class Joint(NamedTuple):
    """What a site's linear steps do.

    Attributes:
      before: to what the activation is given; None for nothing. Over the units that go on.
      on_gate: to the value of a gated unit whose gate is gone, as to the gate.
      after: to what it returns.
      started: which units of the Dense before the activation is given.
      gone_on: which of these go on, in the order in which the Dense after it counts them.
    """

    before: Affine | None
    on_gate: Affine | None
    after: Affine | None
    started: np.ndarray
    gone_on: np.ndarray

    @property
    def both(self) -> Affine | None:
        """All in a row, the activation being the identity."""
        affines = [each for each in (self.before, self.on_gate, self.after) if each is not None]
        return reduce(_in_a_row, affines) if affines else None


def joint_of(site: FoundSite, leaves: Leaves) -> Joint:
    """Returns what a site's linear steps do.

    Args:
      site: the site.
      leaves: arrays or ShapeDtypeStructs.
    """
    match = site.match
    started, gone_on = units_of(match)
    before = _affine(site, match.before, match.up.d_out, leaves)
    on_gate = _affine(site, match.on_gate, len(started), leaves)
    after = _affine(site, match.after, len(started), leaves)
    return Joint(
        _of_units(before, gone_on),
        _of_units(on_gate, gone_on),
        _of_units(after, _order(match)),
        started,
        gone_on,
    )


def units_of(match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Returns `started` and `gone_on` of a site's joint."""
    started = _kept(np.arange(match.up.d_out), match.before)
    return started, _kept(np.arange(len(started)), match.after)[_order(match)]


def taken(array: Any, units: np.ndarray) -> Any:
    """Returns these units of an array (..., d); the array itself where they are all, in order."""
    if len(units) == array.shape[-1] and (units == np.arange(len(units))).all():
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((*array.shape[:-1], len(units)), array.dtype)
    return array[..., units]


def _affine(site: FoundSite, steps: Sequence[Step], width: int, leaves: Leaves) -> Affine | None:
    if not any(step.by is not None or step.op.name == "neg" for step in steps):
        return None
    vectors = [_vector(step, site, leaves) for step in steps if step.by is not None]
    shifts = any(step.shifts for step in steps)

    def fold(*vectors: Any) -> Affine:
        own = iter(vectors)
        scale, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        for step in steps:
            by = None if step.by is None else wide(next(own))
            scale, shift = applied(step, scale, shift, by)
        return Affine(scale, shift if shifts else None)

    return shaped(fold, *vectors)


def _vector(step: Step, site: FoundSite, leaves: Leaves) -> Any:
    """Returns what a step scales or shifts by, over its units; a known constant in NumPy."""
    assert step.by is not None
    constant = step.by.constant
    if constant is not None and not isinstance(constant, Tracer) and np.size(constant) == 1:
        return np.reshape(np.asarray(constant), ())
    return vector(step.by, step.labels, step.out.shape, leaves, site.scans)


def _of_units(affine: Affine | None, units: np.ndarray) -> Affine | None:
    """Returns these units of a scale and a shift."""
    if affine is None:
        return None
    shift = None if affine.shift is None else taken(affine.shift, units)
    return Affine(taken(affine.scale, units), shift)


def _in_a_row(before: Affine, after: Affine) -> Affine:
    def both(before: Affine, after: Affine) -> Affine:
        shift = None if before.shift is None else after.scale * before.shift
        if after.shift is not None:
            shift = after.shift if shift is None else shift + after.shift
        return Affine(after.scale * before.scale, shift)

    return shaped(both, before, after)


def _kept(units: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    for step in steps:
        units = units[step.cut[0] : step.cut[1]] if step.cut else units
    return units


def _order(match: Match) -> np.ndarray:
    """Returns the units that the Dense after sums over, in its own order of their axes."""
    down = match.down
    sizes = [down.kernel.shape[down.kernel_in[row]] for row in match.rows]
    places = sorted(range(len(match.rows)), key=lambda unit: match.rows[unit])
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
