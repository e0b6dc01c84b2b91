"""The algebra of fusing, on arrays alone: a linear chain of Dense layers and norms into one.

A Dense is a mapping with `kernel` (..., d_in, d_out) and perhaps `bias` (..., d_out). Leading axes
are layers stacked by `nn.scan`. NumPy arrays stay NumPy and are multiplied in float64; JAX arrays
are multiplied at highest precision in float32, or in float64 where JAX has it enabled. The result
has the last Dense's dtype, or its complex one where a kernel before it is complex.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding

from lcjax.algebra.sharding import (
    DenseParams,
    dense_sharding,
    explicit_sharding,
    fused_sharding,
    row_sharding,
)


class Norm(NamedTuple):
    """A batch normalisation in inference form.

    Attributes:
      params: `scale` γ and `bias` β, either of which may be missing; (..., d).
      stats: running `mean` and `var`; (..., d).
      epsilon: the ε that it runs with.
    """

    params: Mapping[str, Any]
    stats: Mapping[str, Any]
    epsilon: float


class Affine(NamedTuple):
    """`scale ⊙ h + shift`, unit by unit: a norm, or what replaces an activation, or both.

    Attributes:
      scale: (..., d).
      shift: (..., d); None for 0.
    """

    scale: Any
    shift: Any


Between = Norm | Affine | None


def fuse_dense(denses: Sequence[DenseParams], norms: Sequence[Between] = ()) -> dict[str, Any]:
    """Returns the one Dense that equals a linear chain of them.

    `W = W1 W2`, `b = b1 W2 + b2`; missing biases are zeros, and where all miss there is none. With
    a norm `s ⊙ h + t` before the second, `s = γ / sqrt(var + ε)` and `t = β − s ⊙ mean`:
    `W = W1 diag(s) W2`, `b = (b1 ⊙ s + t) W2 + b2`. One rounding, at the end.

    On a device mesh the kernel keeps the first's input axes and the last's output axes; a mesh
    axis that would appear twice is dropped from the output. Nothing is gathered on the host.
    ShapeDtypeStructs give ShapeDtypeStructs.

    Args:
      denses: kernels (..., d_{i-1}, d_i), optional biases (..., d_i).
      norms: the map before each Dense, a Norm or an Affine; None for none; the first's too.
        Empty: nothing anywhere.

    Returns:
      kernel (..., d_0, d_n), optional bias (..., d_n), in the last kernel's dtype, or the complex
      one of its precision where another is complex; of NumPy where JAX cannot hold that.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    denses = [dict(dense) for dense in denses]
    norms = list(norms) or [None] * len(denses)
    leaves = jax.tree.leaves((denses, norms))
    known = not any(isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) for leaf in leaves)
    dtype = _dtype(denses)
    beyond_jax = jax.dtypes.canonicalize_dtype(dtype) != dtype
    if known and (beyond_jax or not any(isinstance(leaf, jax.Array) for leaf in leaves)):
        denses, norms = jax.tree.map(np.asarray, (denses, norms))
        return _fuse(np, denses, norms, None)
    sharding = fused_sharding([dense["kernel"] for dense in denses])
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        fuse = partial(_fuse, jnp, explicit=explicit_sharding(sharding))
        shapes = jax.eval_shape(fuse, denses, norms)
        return {
            name: jax.ShapeDtypeStruct(
                leaf.shape, dtype, sharding=dense_sharding(sharding, name, leaf)
            )
            for name, leaf in shapes.items()
        }
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return _fuse(jnp, denses, norms, explicit_sharding(sharding))
    return _compiled(sharding)(denses, norms)


def cheapest_cuts(widths: Sequence[int], biased: Sequence[bool] = ()) -> list[int]:
    """Returns the places at which a linear chain is cut so that it has the fewest parameters.

    Of all ways to multiply a chain's Denses together, between widths d_0, d_1, ..., d_n, the one
    with the least `Σ d_i d_j`, biases added: a shortest path. Ties fuse more.

    Args:
      widths: d_0, d_1, ..., d_n.
      biased: for each Dense whether it has a bias, or gets one from a norm folded into it; what
        is fused has one where any of its Denses has. Empty: none anywhere.

    Returns:
      increasing indices into widths, from 0 to n; two neighbours are one matrix.

    Example:
      >>> cheapest_cuts([784, 512, 16, 512, 784])
      [0, 2, 4]
    """
    best: list[tuple[int, int, list[int]]] = [(0, 0, [0])]
    for end in range(1, len(widths)):
        best.append(
            min(
                (cost + parameters(widths, [start, end], biased), kernels + 1, [*path, end])
                for start, (cost, kernels, path) in enumerate(best)
            )
        )
    return best[-1][2]


def parameters(widths: Sequence[int], cuts: Sequence[int], biased: Sequence[bool] = ()) -> int:
    """Returns the number of parameters of a linear chain that is cut there.

    Args:
      widths: as for `cheapest_cuts`.
      cuts: as it returns them.
      biased: as for `cheapest_cuts`; empty counts weights alone.
    """
    return sum(
        widths[end] * (widths[start] + any(biased[start:end])) for start, end in pairwise(cuts)
    )


def dense_flops(denses: Iterable[DenseParams]) -> int:
    """Returns multiply-adds times two for one token through these Dense layers and bypasses."""
    return 2 * sum(math.prod(dense["kernel"].shape) for dense in denses if "kernel" in dense)


def compose(*maps: Between) -> Between:
    """Returns the map that applies these one after another; None for the identity.

    A single map comes back unchanged, several as an `Affine` in wide floats; ShapeDtypeStructs
    give ShapeDtypeStructs.
    """
    present = [each for each in maps if each is not None]
    if len(present) < 2:
        return present[0] if present else None
    leaves = jax.tree.leaves(present)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.eval_shape(partial(_compose, jnp), present)
    return _compose(jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np, present)


def _compose(xp: Any, maps: Sequence[Norm | Affine]) -> Affine:
    scale, shift = affine(xp, maps[0])
    for each in maps[1:]:
        s, t = affine(xp, each)
        scale = s * scale
        shift = t if shift is None else s * shift + (0 if t is None else t)
    return Affine(scale, shift)


def affine(xp: Any, norm: Norm | Affine) -> Affine:
    """Returns a norm's s and t, in wide floats of NumPy (`xp=np`) or JAX (`xp=jnp`)."""
    if isinstance(norm, Affine):
        shift = None if norm.shift is None else _wide(xp, norm.shift)
        return Affine(_wide(xp, norm.scale), shift)
    mean, var = _wide(xp, norm.stats["mean"]), _wide(xp, norm.stats["var"])
    s = 1 / xp.sqrt(var + norm.epsilon)
    if "scale" in norm.params:
        s = s * _wide(xp, norm.params["scale"])
    t = -s * mean
    return Affine(s, t + _wide(xp, norm.params["bias"]) if "bias" in norm.params else t)


def _dtype(denses: Sequence[DenseParams]) -> Any:
    """Returns the dtype of a fused kernel."""
    last, kernels = denses[-1]["kernel"].dtype, [dense["kernel"] for dense in denses]
    if not any(jnp.issubdtype(kernel.dtype, jnp.complexfloating) for kernel in kernels):
        return last
    return np.dtype(np.result_type(last if last.itemsize > 2 else np.float32, np.complex64))


def _wide(xp: Any, array: Any, like: Any = np.float64) -> Any:
    """Returns an array in the widest dtype of xp: float64, complex128 where it or `like` is."""
    dtypes = (like, getattr(array, "dtype", np.float64))
    complex_ = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    dtype = np.dtype(np.complex128 if complex_ else np.float64)
    if xp is np:
        return np.asarray(array, dtype)
    return jnp.asarray(array).astype(jax.dtypes.canonicalize_dtype(dtype))


def _fuse(
    xp: Any,
    denses: Sequence[DenseParams],
    norms: Sequence[Between],
    explicit: NamedSharding | None,
) -> dict[str, Any]:
    """Fuses in wide floats; on an explicit mesh, where products need one, given a sharding."""
    kernel: Any = None
    bias: Any = None
    dtype = _dtype(denses)
    for dense, norm in zip(denses, norms, strict=True):
        w = _wide(xp, dense["kernel"], dtype)
        if norm is not None:
            scale, shift = affine(xp, norm)
            s = _wide(xp, scale, dtype)
            if bias is not None:
                bias = bias * s
            if shift is not None:
                t = _wide(xp, shift, dtype)
                bias = t if bias is None else bias + t
            scaled = s[..., :, None] * w
        else:
            scaled = w
        if bias is not None:
            bias = _multiply(xp, bias[..., None, :], w, row_sharding(explicit, w.ndim))[..., 0, :]
        kernel = scaled if kernel is None else _multiply(xp, kernel, scaled, explicit)
        if "bias" in dense:
            own = _wide(xp, dense["bias"], dtype)
            bias = own if bias is None else bias + own
    if xp is not np:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    fused = {"kernel": kernel.astype(dtype)}
    if bias is None:
        return fused
    if explicit is not None:
        bias = jax.sharding.reshard(bias, dense_sharding(explicit, "bias", bias))
    return fused | {"bias": bias.astype(dtype)}


def _multiply(xp: Any, left: Any, right: Any, out_sharding: NamedSharding | None) -> Any:
    if xp is np:
        return np.matmul(left, right)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(left, right, precision=highest, out_sharding=out_sharding)


@lru_cache(maxsize=64)
def _compiled(sharding: NamedSharding | None) -> Any:
    def fuse(denses: Sequence[DenseParams], norms: Sequence[Between]) -> dict[str, Any]:
        fused = _fuse(jnp, denses, norms, explicit_sharding(sharding))
        if sharding is None or explicit_sharding(sharding):
            return fused
        places = {name: dense_sharding(sharding, name, leaf) for name, leaf in fused.items()}
        return jax.lax.with_sharding_constraint(fused, places)

    return jax.jit(fuse)
