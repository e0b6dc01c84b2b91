"""One pass over batches that gathers moments of what flows through a Flax model's modules."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from lcjax.algebra.moments import Moments, measure, merge
from lcjax.calibration.capture import capture
from lcjax.calibration.masks import Mask, check_mask, counted, over_tokens
from lcjax.errors import CollapseError
from lcjax.validation.arguments import check_number
from lcjax.validation.batches import as_batch, check_batches, check_devices
from lcjax.validation.functions import check_function, check_not_traced, explained

# Rows are held out where frac(n φ) < holdout, φ the golden section: evenly spread, in step with no
# period that the data may have.
_GOLDEN = 2654435769
_WORD = 2**32
_SHOW_AFTER_S = 5.0


class Pair(NamedTuple):
    """Two values of a model between which a linear map is to be found.

    Attributes:
      key: what the moments are called.
      source: name of x, from `capture.into` or `capture.out_of`.
      target: name of t.
      unitwise: whether a gain in each unit is looked for, rather than a matrix.
      beside: name of what is added to t, if anything is, so that where sources are taken from a
        compact model t makes up for what the compact model gets wrong there; None looks for none.
    """

    key: str
    source: str
    target: str
    unitwise: bool
    beside: str | None = None


class Gathered(NamedTuple):
    """Moments by the pairs' keys, on the host: of the tokens to fit on, and of those held out."""

    fitted: dict[str, Moments]
    held: dict[str, Moments]


def gather(
    apply_fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    pairs: tuple[Pair, ...],
    *,
    compact: Any = None,
    mask: Mask | None,
    holdout: float,
    progress: bool,
) -> Gathered:
    """Returns the moments of every pair over all batches; see `lcjax.calibrate`.

    Args:
      apply_fn: runs Flax linen modules.
      variables: of the model.
      batches: what apply_fn takes after the variables, one after another.
      pairs: what to gather.
      compact: variables of the model from which sources are taken; None takes them, as the
        targets, from `variables`.
      mask: `mask(*batch)` says which positions count.
      holdout: part of the rows that is held out.
      progress: whether a pass that takes long shows a bar.
    """
    check_function(apply_fn)
    check_not_traced(variables, "calibrate")
    check_number("holdout", holdout)
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}, must be in [0, 1): a part of the rows.")
    check_batches(batches)
    # Compiled anew in every pass: what apply_fn and mask read from outside may have changed, and
    # what they close over is let go with it.
    measured = partial(_measure, apply_fn=apply_fn, pairs=pairs, mask=mask, holdout=holdout)
    measure_batch = jax.jit(measured, static_argnames="mesh")
    start, total, behind = 0, None, None
    for batch in watched(batches) if progress else batches:
        batch = as_batch(batch)
        if total is None:
            check_devices(variables, compact, batch)
        first, mesh = np.uint32(start % _WORD), _mesh((variables, compact, batch))
        with explained(apply_fn, variables, batch):
            moments, negative = measure_batch(variables, compact, batch, first, mesh=mesh)
        total = moments if total is None else _merge(total, moments)
        # At most one batch waits on the device: memory does not grow where batches come fast.
        check_mask(behind)
        behind, start = negative, start + _rows(batch)
    if total is None:
        raise ValueError(
            "batches is empty: give at least one batch of what apply_fn takes; a generator "
            "can be consumed only once."
        )
    check_mask(behind)
    gathered = jax.device_get(total)
    for pair in pairs:
        _check_moments(pair.key, gathered.fitted[pair.key], gathered.held[pair.key])
    return gathered


def _measure(
    variables: Any,
    compact: Any,
    batch: tuple[Any, ...],
    start: jax.Array,
    *,
    apply_fn: Callable[..., Any],
    pairs: tuple[Pair, ...],
    mask: Mask | None,
    holdout: float,
    mesh: Mesh | None,
) -> tuple[Gathered, jax.Array]:
    """Returns the moments of one batch, and whether its mask holds numbers that it must not."""
    values = _values(apply_fn, variables, compact, batch, pairs)
    counts, negative = (None, jnp.asarray(False)) if mask is None else counted(mask(*batch))
    gathered = Gathered({}, {})
    for (key, _, _, unitwise, _), calls in zip(pairs, values, strict=True):
        calls = [
            _measure_call(key, x, t, counts, start, _rows(batch), holdout, unitwise)
            for x, t in calls
        ]
        for group, moments in zip(gathered, zip(*calls, strict=True), strict=True):
            whole = moments[0]
            for more in moments[1:]:
                whole = merge(whole, more)
            group[key] = whole
    return _everywhere((gathered, negative), mesh)


def _values(
    apply_fn: Callable[..., Any],
    variables: Any,
    compact: Any,
    batch: tuple[Any, ...],
    pairs: tuple[Pair, ...],
) -> list[list[tuple[jax.Array, jax.Array]]]:
    """Returns x and t of every pair, for every call of its modules."""
    targets, sources = {pair.target for pair in pairs}, {pair.source for pair in pairs}
    if compact is None:
        values = capture(apply_fn, variables, batch, targets | sources)
        return [list(zip(values[pair.source], values[pair.target], strict=True)) for pair in pairs]
    others = {pair.beside for pair in pairs if pair.beside is not None}
    wanted = capture(apply_fn, variables, batch, targets | others)
    given = capture(apply_fn, compact, batch, sources | others)
    found = []
    for pair in pairs:
        ts = wanted[pair.target]
        if pair.beside is not None and len(wanted[pair.beside]) == len(ts):
            sums = zip(ts, wanted[pair.beside], given[pair.beside], strict=True)
            ts = [t + (deep - now) for t, deep, now in sums]
        found.append(list(zip(given[pair.source], ts, strict=True)))
    return found


def _measure_call(
    key: str,
    x: jax.Array,
    t: jax.Array,
    counts: jax.Array | None,
    start: jax.Array,
    rows: int,
    holdout: float,
    unitwise: bool,
) -> tuple[Moments, Moments]:
    """Returns the moments of one call of a module: of the tokens to fit on, and of those held."""
    if any(jnp.issubdtype(value.dtype, jnp.complexfloating) for value in (x, t)):
        raise CollapseError(
            f"{key}: its values are complex, but fits are of real numbers. Leave the site out, or "
            "collapse with fit='exact'."
        )
    tokens = x.shape[:-1]
    keep = jnp.ones(tokens, bool) if counts is None else over_tokens(key, counts, tokens)
    length = tokens[0] if tokens else 1
    row = start + (jnp.arange(length) // max(length // max(rows, 1), 1)).astype(jnp.uint32)
    held = (row + 1) * np.uint32(_GOLDEN) < np.uint32(min(holdout * _WORD, _WORD - 1))
    held = held.reshape(length, *(1,) * (len(tokens) - 1)) if tokens else held[0]
    fitted = measure(x, t, keep & ~held, unitwise=unitwise)
    if not holdout:
        return fitted, jax.tree.map(jnp.zeros_like, fitted)
    return fitted, measure(x, t, keep & held, unitwise=unitwise)


_merge = jax.jit(
    lambda a, b: jax.tree.map(merge, a, b, is_leaf=lambda node: isinstance(node, Moments)),
    donate_argnums=0,
)


def _everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Returns moments whole on every device of a mesh."""
    if mesh is None:
        return tree
    whole = NamedSharding(mesh, jax.P())
    if AxisType.Explicit in mesh.axis_types:
        return jax.sharding.reshard(tree, whole)
    return jax.lax.with_sharding_constraint(tree, whole)


def _mesh(tree: Any) -> Mesh | None:
    """Returns the mesh on which arrays of a tree stand, if there is one."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    meshes = (found.mesh for found in shardings if isinstance(found, NamedSharding))
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh) and mesh.size > 1), None)


def _rows(batch: tuple[Any, ...]) -> int:
    """Returns the length of a batch's first axis."""
    return next((np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)), 1)


def watched(
    batches: Iterable[Any], what: str = "calibrating", unit: str = "batch"
) -> Iterable[Any]:
    """Returns batches under a bar that comes up when a pass is long, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    calm = 0.2 if sys.stderr.isatty() else 30  # a log file gets a line every half minute
    return tqdm(
        batches,
        desc=what,
        unit=unit,
        delay=_SHOW_AFTER_S,
        mininterval=calm,
        maxinterval=calm,
    )


def _check_moments(key: str, fitted: Moments, held: Moments) -> None:
    if not fitted.count:
        raise CollapseError(
            f"{key}: no token counts, so there is nothing to fit. Look at mask and at holdout, or "
            "give more data."
        )
    if fitted.count == 1:
        raise CollapseError(
            f"{key}: a single token counts, from which nothing can be fitted; expected a batch "
            "axis and many tokens. Give whole batches, x[None] for one example, and more of them."
        )
    for moments, rows in ((fitted, ""), (held, " in rows that are held out")):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments)):
            raise CollapseError(
                f"{key}: its values are not finite on this data{rows}. If it is padding, leave it "
                "out with mask; else training has diverged."
            )
