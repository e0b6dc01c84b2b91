"""One pass over batches that collects moments of the values that a fit needs."""

import sys
from collections.abc import Collection, Iterable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from lcjax.algebra.moments import Moments, measure, merge
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.held_out import WORD, Rows, padded_places, rows_of
from lcjax.calibration.masks import check_mask, counted, over_tokens
from lcjax.calibration.on_mesh import in_blocks, mesh_of, to_host
from lcjax.calibration.weighting import effective, shares
from lcjax.errors import CollapseError
from lcjax.structure.front_end import Observe, Observed
from lcjax.validation.batches import as_batch, check_devices
from lcjax.validation.functions import check_not_traced

_SHOW_AFTER_S = 5.0


class _Call(NamedTuple):
    """What is collected of one call of a layer in one batch.

    Attributes:
      train: moments of the tokens to fit on.
      held_out: of the tokens held out.
      squares: Σ w² of the tokens' weights w, to fit on and held out; (2,).
    """

    train: Moments
    held_out: Moments
    squares: jax.Array


class _Measured(NamedTuple):
    """What is collected of batches.

    Attributes:
      train: moments by key, of the tokens to fit on.
      held_out: of the tokens held out.
      squares: of weights by key, as of a call; empty where tokens weigh alike.
    """

    train: dict[str, Moments]
    held_out: dict[str, Moments]
    squares: dict[str, Any]


class SplitMoments(NamedTuple):
    """Moments by key, on the host.

    Attributes:
      train: of the tokens to fit on.
      held_out: of the tokens held out, by which fits are judged.
    """

    train: dict[str, Moments]
    held_out: dict[str, Moments]


def collect_statistics(
    observe: Observe,
    variables: Any,
    data: CalibrationData,
    observed: Observed,
    compact: Any = None,
    rare: Collection[str] = (),
) -> SplitMoments:
    """Returns the moments of every pair of values over all batches; see `lcjax.calibrate`.

    Args:
      observe: what a model's `observe` returned.
      variables: of the model.
      data: the batches; one pass.
      observed: which values it returns; for "unit" moments are of each unit alone.
      compact: variables of the model from which inputs are taken; None takes them, as the outputs,
        from `variables`.
      rare: keys of which no token may count: experts to which none is routed.
    """
    check_not_traced(variables, "calibrate")
    # Compiled anew in every pass: what observe and mask read from outside may have changed, and
    # what they close over is freed with it.
    unitwise = observed == "unit"
    measured = partial(_measure, observe=observe, data=data, unitwise=unitwise)
    measure_batch = jax.jit(measured, static_argnames="mesh")
    start, total, behind = 0, None, None
    for batch in with_progress(data.batches) if data.progress else data.batches:
        batch = as_batch(batch)
        if total is None:
            check_devices(variables, compact, batch)
        rows, mesh = rows_of(batch), mesh_of((variables, compact, batch))
        held_out = None if mesh else padded_places(start, rows, data.holdout)
        first = np.uint32(start % WORD)
        moments, negative = measure_batch(variables, compact, batch, first, held_out, mesh=mesh)
        total = moments if total is None else _merge(total, moments)
        # At most one batch waits on the device: memory does not grow where batches come fast.
        check_mask(behind)
        behind, start = negative, start + rows
    if total is None:
        raise ValueError(
            "batches is empty: give at least one batch of the model's inputs; a generator can be "
            "consumed only once."
        )
    check_mask(behind)
    train, held_out, squares = to_host(total)
    collected = SplitMoments(effective(train, squares, 0), effective(held_out, squares, 1))
    for key, moments in collected.train.items():
        if key in rare and moments.count < 2:
            continue
        _check_moments(key, moments, collected.held_out[key])
    return collected


def _measure(
    variables: Any,
    compact: Any,
    batch: tuple[Any, ...],
    start: jax.Array,
    held_out: jax.Array | None,
    *,
    observe: Observe,
    data: CalibrationData,
    unitwise: bool,
    mesh: Mesh | None,
) -> tuple[_Measured, jax.Array]:
    """Returns the moments of one batch, and whether its mask has numbers that it must not have.

    Args:
      variables: of the model.
      compact: of the model from which inputs are taken; None for the same.
      batch: the inputs.
      start: number of the batch's first row.
      held_out: places of the rows held out; None where they are not known to the host.
      observe: returns the values.
      data: of which the batch is.
      unitwise: whether moments are of each unit alone.
      mesh: on which moments are divided.
    """
    rows = Rows(start, rows_of(batch), data.holdout, held_out)
    pairs = observe(variables, compact, batch)
    mask = None if data.mask is None else data.mask(*batch)
    counts, negative = (None, jnp.asarray(False)) if data.mask is None else counted(mask)
    collected = _Measured({}, {}, {})
    for key, calls in pairs.items():
        split = [
            _measure_call(
                key, x, t, _weights(key, counts, own[:1]), rows, unitwise, own[1:] != [False]
            )
            for x, t, *own in calls
        ]
        collected.train[key] = reduce(merge, [each.train for each in split])
        collected.held_out[key] = reduce(merge, [each.held_out for each in split])
        if data.weighting != "equal":
            collected.squares[key] = sum(each.squares for each in split)
    return in_blocks((collected, negative), mesh)


def _weights(key: str, counts: jax.Array | None, own: Sequence[jax.Array]) -> jax.Array | None:
    """Returns the weights of a call's tokens, 0 where the mask of the data leaves them out.

    Args:
      key: of the statistics.
      counts: which tokens count by the mask of the data; None for all.
      own: the weights that the call has itself, or which tokens count, (tokens...); or nothing.
    """
    if not own or counts is None:
        return own[0] if own else counts
    return _only(own[0], over_tokens(key, counts, own[0].shape))


def _only(weights: jax.Array, where: jax.Array) -> jax.Array:
    """Returns weights, 0 or False where they are not to count."""
    return jnp.where(where, weights, jnp.zeros((), weights.dtype))


def _measure_call(
    key: str,
    x: jax.Array,
    t: jax.Array,
    weights: jax.Array | None,
    rows: Rows,
    unitwise: bool,
    in_rows: bool,
) -> _Call:
    """Returns the moments of one call of a layer, of tokens to fit on and of those held out."""
    if any(jnp.issubdtype(value.dtype, jnp.complexfloating) for value in (x, t)):
        raise CollapseError(
            f"{key}: its values are complex, but fits are of real numbers. Leave the site out, or "
            "collapse with lcjax.Exact()."
        )
    tokens = x.shape[:-1]
    length = tokens[0] if tokens else 1
    weights = jnp.ones(tokens, bool) if weights is None else over_tokens(key, weights, tokens)
    if weights.dtype != bool and in_rows:
        weights = shares(weights, rows.count)
    out = rows.out(length)
    out = out.reshape(length, *(1,) * (len(tokens) - 1)) if tokens else out[0]
    to_fit, held_out = _only(weights, ~out), _only(weights, out)
    squares = jnp.stack([_sum_of_squares(to_fit), _sum_of_squares(held_out)])
    train = measure(x, t, to_fit, unitwise=unitwise)
    if not rows.holdout:
        return _Call(train, jax.tree.map(jnp.zeros_like, train), squares)
    places = rows.places(length) if tokens and not _is_explicit(x) else None
    if places is None:
        return _Call(train, measure(x, t, held_out, unitwise=unitwise), squares)
    known = (places >= 0).reshape(-1, *(1,) * (len(tokens) - 1))
    found = measure(x[places], t[places], _only(weights[places], known), unitwise=unitwise)
    return _Call(train, found, squares)


def _sum_of_squares(weights: jax.Array) -> jax.Array:
    return jnp.sum(weights * weights, dtype=jnp.float32)


def _is_explicit(x: jax.Array) -> bool:
    """Returns whether a value has axes of an explicit mesh, along which rows cannot be taken."""
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


_merge = jax.jit(
    lambda a, b: jax.tree.map(
        lambda one, other: merge(one, other) if isinstance(one, Moments) else one + other,
        a,
        b,
        is_leaf=lambda node: isinstance(node, Moments),
    ),
    donate_argnums=0,
)


def with_progress(
    batches: Iterable[Any], what: str = "calibrating", unit: str = "batch"
) -> Iterable[Any]:
    """Returns batches under a bar that appears when a pass is long, where tqdm is installed."""
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


def _check_moments(key: str, train: Moments, held_out: Moments) -> None:
    if not train.count:
        raise CollapseError(
            f"{key}: no token counts, so there is nothing to fit. Look at mask and at holdout, or "
            'give more data; weighting="influence" counts tokens on which the output depends.'
        )
    if train.count == 1:
        raise CollapseError(
            f"{key}: a single token counts, from which nothing can be fitted; expected a batch "
            "axis and many tokens. Give whole batches, x[None] for one example, and more of them."
        )
    for moments, rows in ((train, ""), (held_out, " in rows that are held out")):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments)):
            raise CollapseError(
                f"{key}: its values are not finite on this data{rows}. If it is padding, leave it "
                "out with mask; else training has diverged."
            )
