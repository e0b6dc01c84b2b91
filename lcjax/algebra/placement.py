"""Arrays found on the host, put where the arrays that they replace stood."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lcjax.algebra.fuse import DenseParams, fused_sharding


def place_dense(
    kernel: np.ndarray, bias: np.ndarray | None, first: DenseParams, last: DenseParams
) -> DenseParams:
    """Returns a Dense in the dtype of the last it replaces, where a fused one would stand.

    NumPy arrays for NumPy's. On a mesh the kernel keeps the first's input axes and the last's
    output axes, as with `lcjax.algebra.fuse.fuse_dense`; an axis that does not divide a width is
    dropped.

    Args:
      kernel: (d_in, d_out), float64.
      bias: (d_out,), or None for none.
      first: the first Dense of those replaced.
      last: the last one.
    """
    like = last["kernel"]
    arrays = {"kernel": kernel} | ({} if bias is None else {"bias": bias})
    arrays = {name: array.astype(like.dtype) for name, array in arrays.items()}
    if not isinstance(like, jax.Array):
        return arrays
    sharding = fused_sharding([first["kernel"], like])
    if sharding is None:
        put = jnp.asarray if not like.committed else (lambda a: jax.device_put(a, like.sharding))
        return {name: put(array) for name, array in arrays.items()}
    d_in, d_out = (tuple(sharding.spec) + (None, None))[:2]
    specs = {"kernel": (d_in, d_out), "bias": (d_out,)}
    return {
        name: jax.device_put(array, _dividing(sharding, specs[name], array.shape))
        for name, array in arrays.items()
    }


def _dividing(sharding: NamedSharding, spec: Any, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of this shape, without the mesh axes that do not divide a length."""
    sizes = sharding.mesh.shape
    axes = [entry if isinstance(entry, tuple) else (entry,) if entry else () for entry in spec]
    parts = [math.prod(sizes[name] for name in names) for names in axes]
    fitting = [
        entry if length % part == 0 else None
        for entry, part, length in zip(spec, parts, shape, strict=True)
    ]
    return NamedSharding(sharding.mesh, PartitionSpec(*fitting))
