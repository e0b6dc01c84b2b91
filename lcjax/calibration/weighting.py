"""How much the tokens of a calibration count: by how much errors there change the output."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcjax._messages import describe
from lcjax.algebra.moments import Moments, scaled
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.held_out import rows_of
from lcjax.calibration.masks import Positions, counted
from lcjax.structure.front_end import Pull


def pull_of(data: CalibrationData) -> Pull | None:
    """Returns the cotangent of a model's output whose gradients weigh tokens; None for none."""
    if data.weighting == "equal":
        return None

    def pull(output: Any, batch: tuple[Any, ...]) -> Any:
        mask = None if data.mask is None else counted(data.mask(*batch))[0]
        positions = Positions(jnp.ones(rows_of(batch)), mask)
        leaves, treedef = jax.tree.flatten(output)
        keys = jax.random.split(jax.random.key(_fingerprint(batch)), max(len(leaves), 1))
        found = []
        for key, leaf in zip(keys, leaves, strict=False):
            if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.ndim:
                raise TypeError(
                    'weighting="influence" needs a model that returns arrays of floats, rows '
                    f"first; this one returned {describe(output)}. Return the logits alone, or "
                    'calibrate with weighting="equal".'
                )
            leading = leaf.shape[:-1] or leaf.shape
            counts = positions.of(leading).reshape(leading + (1,) * (leaf.ndim - len(leading)))
            found.append((counts * directions(key, leaf.shape)).astype(leaf.dtype))
        return treedef.unflatten(found)

    return pull


def directions(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns random directions along the last axis, of length 1 and, but for one entry, mean 0.

    A softmax is unchanged by a constant added to all of its logits. For two logits the direction is
    known up to its sign.

    Args:
      key: for the random numbers.
      shape: (..., entries).

    Example:
      >>> import jax
      >>> abs(directions(jax.random.key(0), (1, 2))).round(3).tolist()
      [[0.7070000171661377, 0.7070000171661377]]
    """
    normal = jax.random.normal(key, shape)
    if shape[-1] > 1:
        normal -= jnp.mean(normal, axis=-1, keepdims=True)
    return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


def shares(weights: jax.Array, rows: int) -> jax.Array:
    """Returns weights whose sum over the tokens of a row is 1, or 0 where it was.

    Where the first axis is not of the rows, weights stay as they are.
    """
    tokens = weights.shape
    if not tokens or not rows or tokens[0] % rows:
        return weights
    own = weights.reshape(rows, -1)
    total = jnp.sum(own, axis=1, keepdims=True)
    return (own / jnp.where(total > 0, total, 1)).reshape(tokens)


def effective(
    moments: dict[str, Moments], squares: dict[str, Sequence[Any]], place: int
) -> dict[str, Moments]:
    """Returns moments whose counts are the effective numbers of tokens, (Σ w)² / Σ w².

    So many tokens that weigh alike say as much as the weighted ones.

    Args:
      moments: by key.
      squares: Σ w² by key, of several groups of tokens; empty where tokens weigh alike.
      place: of the moments' group.

    References:
      Kish 1965, "Survey sampling", section 11.7.
    """
    if not squares:
        return moments
    totals = {key: squares[key][place] for key in moments}
    return {
        key: scaled(one, one.count / totals[key]) if totals[key] > 0 else one
        for key, one in moments.items()
    }


def _fingerprint(batch: tuple[Any, ...]) -> jax.Array:
    """Returns a number that differs from batch to batch, whatever devices hold it; uint32."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(batch):
        bits = jnp.asarray(leaf)
        if jnp.issubdtype(bits.dtype, jax.dtypes.prng_key):
            bits = jax.random.key_data(bits)
        if jnp.issubdtype(bits.dtype, jnp.floating):
            bits = jax.lax.bitcast_convert_type(bits.astype(jnp.float32), jnp.uint32)
        total += jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
    return total
