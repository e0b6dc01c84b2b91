"""Moments of pairs of arrays: measured batch by batch and merged without loss of precision."""

from dataclasses import dataclass, field, replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, means and centred second moments of tokens (x, t); sufficient for a linear fit.

    Of two kinds. Full: of vectors x and t, for a matrix between them. Unitwise: of x and t of equal
    width, for a gain in each unit; then every second moment is a vector. Float32, or float64 where
    x or t is.

    Attributes:
      count: number of tokens; ().
      mean_x: E x, (d_in,).
      mean_t: E t, (d_out,).
      xx: Σ (x − E x)(x − E x)ᵀ, (d_in, d_in); unitwise its diagonal, (d_in,).
      xt: Σ (x − E x)(t − E t)ᵀ, (d_in, d_out); unitwise its diagonal.
      tt: Σ ‖t − E t‖², (); unitwise of every unit, (d_out,).
      unitwise: which kind.
      units: where x ends in values of some hidden units of a layer alone, their indices,
        increasing; None where it does not.
    """

    count: Any
    mean_x: Any
    mean_t: Any
    xx: Any
    xt: Any
    tt: Any
    unitwise: bool = field(default=False, metadata={"static": True})
    units: Any = None


def measure(
    x: jax.Array, t: jax.Array, weights: jax.Array | None = None, *, unitwise: bool = False
) -> Moments:
    """Returns the moments of one batch.

    Args:
      x: (..., d_in); every position along the leading axes is a token.
      t: (..., d_out), of the same leading axes.
      weights: of the tokens, at least 0, or bool: which of them count; of the same leading axes.
        None takes all alike. The values of a token of weight 0 are ignored, NaN included.
      unitwise: moments of each unit alone.

    Raises:
      AssertionError: x, t and weights whose leading axes differ; unitwise, other widths too.
    """
    (chex.assert_equal_shape if unitwise else _assert_same_tokens)([x, t])
    weights = jnp.ones(x.shape[:-1], bool) if weights is None else weights
    chex.assert_shape(weights, x.shape[:-1])
    dtype = jnp.float64 if jnp.float64 in (x.dtype, t.dtype) else jnp.float32
    if weights.dtype != bool:
        weights = weights.astype(dtype)
    count = jnp.sum(weights, dtype=dtype)
    mean_x, dx = _centred(x.astype(dtype), weights, count)
    mean_t, dt = _centred(t.astype(dtype), weights, count)
    if weights.dtype != bool:
        root = jnp.sqrt(weights)[..., None]
        dx, dt = root * dx, root * dt
    xx, xt, tt = _products(dx, dt, unitwise)
    return Moments(
        count=count, mean_x=mean_x, mean_t=mean_t, xx=xx, xt=xt, tt=tt, unitwise=unitwise
    )


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the tokens of both.

    References:
      Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """
    count = a.count + b.count
    share = b.count / _at_least_some(count)
    dx, dt = b.mean_x - a.mean_x, b.mean_t - a.mean_t
    between = _outer(dx, dt, a.unitwise)
    xx, xt, tt = (
        own + other + a.count * share * product
        for own, other, product in zip((a.xx, a.xt, a.tt), (b.xx, b.xt, b.tt), between, strict=True)
    )
    return Moments(
        count=count,
        mean_x=a.mean_x + share * dx,
        mean_t=a.mean_t + share * dt,
        xx=xx,
        xt=xt,
        tt=tt,
        unitwise=a.unitwise,
    )


def scaled(moments: Moments, factor: Any) -> Moments:
    """Returns the moments of tokens whose weights are all larger by a factor."""
    scale = {name: factor * getattr(moments, name) for name in ("count", "xx", "xt", "tt")}
    return replace(moments, **scale)


def submoments(moments: Moments, columns: np.ndarray) -> Moments:
    """Returns the moments of some inputs alone.

    Args:
      moments: full, not unitwise.
      columns: indices of the inputs, (n,), in any order.
    """
    return replace(
        moments,
        mean_x=moments.mean_x[columns],
        xx=moments.xx[np.ix_(columns, columns)],
        xt=moments.xt[columns],
    )


def _assert_same_tokens(arrays: list[jax.Array]):
    chex.assert_equal_shape_prefix(arrays, arrays[0].ndim - 1)


def _centred(
    values: jax.Array, weights: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean over tokens and the values minus their mean, 0 for tokens of weight 0."""
    axes, alike = tuple(range(values.ndim - 1)), weights.dtype == bool
    counts = (weights if alike else weights > 0)[..., None]

    def centred(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        weighted = values if alike else weights[..., None] * values
        mean = jnp.sum(weighted, axes, keepdims=True) / _at_least_some(count)
        return mean, jnp.where(counts, values - mean, 0)

    mean, rest = centred(jnp.where(counts, values, 0))
    more, rest = centred(rest)  # the rounding error of a mean far from 0
    return (mean + more).reshape(values.shape[-1]), rest


def _at_least_some(count: jax.Array) -> jax.Array:
    """Returns a sum of weights by which to divide, 1 where there is none."""
    return jnp.where(count > 0, count, 1)


def _products(x: jax.Array, t: jax.Array, unitwise: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sums over tokens of x xᵀ, x tᵀ and ‖t‖², or of each unit alone."""
    tokens = tuple(range(x.ndim - 1))
    if unitwise:
        return jnp.sum(x * x, tokens), jnp.sum(x * t, tokens), jnp.sum(t * t, tokens)

    mesh = jax.typeof(x).sharding.mesh  # an explicit mesh needs the sharding of a product
    whole = NamedSharding(mesh, PartitionSpec()) if AxisType.Explicit in mesh.axis_types else None

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        highest = jax.lax.Precision.HIGHEST
        axes = (tokens, tokens)
        return jnp.tensordot(left, right, axes=axes, precision=highest, out_sharding=whole)

    return product(x, x), product(x, t), jnp.sum(t * t)


def _outer(x: jax.Array, t: jax.Array, unitwise: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what `_products` does of one token, without a product of matrices."""
    if unitwise or AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types:
        return _products(x[None], t[None], unitwise)
    return x[:, None] * x[None], x[:, None] * t[None], jnp.sum(t * t)
