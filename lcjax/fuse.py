"""The algebra of fusing, on arrays alone: two Dense layers into one, a norm into a Dense.

A Dense is a mapping with `kernel` (..., d_in, d_out) and perhaps `bias` (..., d_out). Leading axes
are layers stacked by `nn.scan`. NumPy arrays stay NumPy and are multiplied in float64; JAX arrays
are multiplied at highest precision in float32, or in float64 where JAX has it enabled. The result
has the second Dense's dtype.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Dense = Mapping[str, Any]
Affine = tuple[Any, Any]


def norm_affine(norm: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float) -> Affine:
    """Returns (s, t) with `norm(h) = s ⊙ h + t`, batch normalisation in inference form.

    `s = γ / sqrt(var + ε)`, `t = β − s ⊙ mean`; each (..., d_hidden), in float32 or wider.

    Args:
      norm: `scale` γ and `bias` β, either of which may be missing; (..., d_hidden).
      stats: running `mean` and `var`; (..., d_hidden).
      epsilon: the ε that the norm was run with.
    """
    xp = _backend(*norm.values(), *stats.values())
    mean, var = _wide(xp, stats["mean"]), _wide(xp, stats["var"])
    s = 1 / xp.sqrt(var + epsilon)
    if "scale" in norm:
        s = s * _wide(xp, norm["scale"])
    t = -s * mean
    if "bias" in norm:
        t = t + _wide(xp, norm["bias"])
    return s, t


def fold_affine(affine: Affine, second: Dense) -> dict[str, Any]:
    """Returns the Dense that does `h ↦ second(s ⊙ h + t)`.

    `W = diag(s) W2`, `b = t W2 + b2`.
    """
    s, t = affine
    xp = _backend(s, t, *second.values())
    kernel = _wide(xp, second["kernel"])
    bias = _through(xp, t, kernel)
    if "bias" in second:
        bias = bias + _wide(xp, second["bias"])
    dtype = second["kernel"].dtype
    return {"kernel": (s[..., :, None] * kernel).astype(dtype), "bias": bias.astype(dtype)}


def fuse_dense(first: Dense, second: Dense) -> dict[str, Any]:
    """Returns the Dense that does second ∘ first.

    `W = W1 W2`, `b = b1 W2 + b2`; missing biases are zeros, and where both miss there is none. On
    a device mesh the kernel keeps W1's input axes and W2's output axes; a mesh axis that would
    stand twice is dropped from the second. Nothing is gathered on the host.

    Args:
      first: kernel (..., d_in, d_hidden), optional bias (..., d_hidden).
      second: kernel (..., d_hidden, d_out), optional bias (..., d_out).

    Returns:
      kernel (..., d_in, d_out), optional bias (..., d_out), in the second kernel's dtype.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    if _backend(*first.values(), *second.values()) is np:
        return _fuse(np, first, second, None)
    mesh_sharding = _fused_sharding(first["kernel"], second["kernel"])
    first, second = dict(first), dict(second)
    if isinstance(second["kernel"], jax.core.Tracer) or isinstance(
        first["kernel"], jax.core.Tracer
    ):
        return _fuse(jnp, first, second, mesh_sharding)
    return _compiled(mesh_sharding)(first, second)


def fused_spec(first: PartitionSpec, second: PartitionSpec, ndim: int) -> PartitionSpec:
    """Returns the partition of a fused kernel: first's input axes, second's output axes."""
    ahead = (tuple(first) + (None,) * ndim)[: ndim - 1]
    taken = {axis for axes in ahead for axis in _axes(axes)}
    out = (tuple(second) + (None,) * ndim)[ndim - 1]
    free = tuple(axis for axis in _axes(out) if axis not in taken)
    return PartitionSpec(*ahead, free if len(free) > 1 else (free[0] if free else None))


def cheapest_cuts(widths: Sequence[int]) -> list[int]:
    """Returns the places at which a linear chain is cut so that its kernels are smallest.

    Of all ways to multiply a chain's kernels together, between widths d_0, d_1, ..., d_n, the one
    with the least `Σ d_i d_j` over what remains: a shortest path. Ties fuse more.

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
                (cost + widths[start] * widths[end], kernels + 1, [*path, end])
                for start, (cost, kernels, path) in enumerate(best)
            )
        )
    return best[-1][2]


def _backend(*arrays: Any) -> Any:
    return np if all(isinstance(array, (np.ndarray, np.generic)) for array in arrays) else jnp


def _wide(xp: Any, array: Any) -> Any:
    if xp is np:
        return np.asarray(array, np.float64)
    return jnp.asarray(array).astype(jax.dtypes.canonicalize_dtype(np.float64))


def _through(xp: Any, bias: Any, kernel: Any, out_sharding: Any = None) -> Any:
    row = _multiply(xp, bias[..., None, :], kernel, out_sharding)
    return row[..., 0, :]


def _multiply(xp: Any, left: Any, right: Any, out_sharding: Any = None) -> Any:
    if xp is np:
        return np.matmul(left, right)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(left, right, precision=highest, out_sharding=out_sharding)


def _fuse(xp: Any, first: Dense, second: Dense, sharding: NamedSharding | None) -> dict[str, Any]:
    """Fuses; `sharding` is that of the kernel on an explicit mesh, where products must say it."""
    explicit = _explicit(sharding)
    w1, w2 = _wide(xp, first["kernel"]), _wide(xp, second["kernel"])
    dtype = second["kernel"].dtype
    fused = {"kernel": _multiply(xp, w1, w2, explicit).astype(dtype)}
    if "bias" in first:
        row = explicit and NamedSharding(explicit.mesh, _bias_row_spec(explicit.spec, w2.ndim))
        bias = _through(xp, _wide(xp, first["bias"]), w2, row)
        if "bias" in second:
            bias = bias + _wide(xp, second["bias"])
        fused["bias"] = bias.astype(dtype)
    elif "bias" in second:
        fused["bias"] = second["bias"].astype(dtype)
    return fused


@lru_cache(maxsize=64)
def _compiled(sharding: NamedSharding | None) -> Any:
    def fuse(first: Dense, second: Dense) -> dict[str, Any]:
        fused = _fuse(jnp, first, second, sharding)
        if sharding is None or _explicit(sharding):
            return fused
        spec = sharding.spec
        out = {"kernel": sharding}
        if "bias" in fused:
            row = tuple(_bias_row_spec(spec, fused["kernel"].ndim))
            out["bias"] = NamedSharding(sharding.mesh, PartitionSpec(*row[:-2], row[-1]))
        return jax.lax.with_sharding_constraint(fused, out)

    return jax.jit(fuse)


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _bias_row_spec(kernel: PartitionSpec, ndim: int) -> PartitionSpec:
    whole = tuple(kernel) + (None,) * (ndim - len(kernel))
    return PartitionSpec(*whole[:-2], None, whole[-1])


def _explicit(sharding: NamedSharding | None) -> NamedSharding | None:
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return sharding


def _fused_sharding(first: Any, second: Any) -> NamedSharding | None:
    """Returns the fused kernel's sharding where both kernels stand on one mesh, else None."""
    shardings = [
        jax.typeof(kernel).sharding
        if isinstance(kernel, jax.core.Tracer)
        else getattr(kernel, "sharding", None)
        for kernel in (first, second)
    ]
    if not all(isinstance(sharding, NamedSharding) for sharding in shardings):
        return None
    one, two = shardings
    if one.mesh.empty or one.mesh != two.mesh:
        return None
    return NamedSharding(one.mesh, fused_spec(one.spec, two.spec, first.ndim))
