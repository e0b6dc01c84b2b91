"""The sharding and the partition metadata of arrays that replace others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

DenseParams = Mapping[str, Any]


def fused_spec(first: PartitionSpec, second: PartitionSpec, ndim: int) -> PartitionSpec:
    """Returns the partition of a fused kernel: first's input axes, second's output axes."""
    ahead = (tuple(first) + (None,) * ndim)[: ndim - 1]
    taken = {axis for axes in ahead for axis in _axes(axes)}
    out = (tuple(second) + (None,) * ndim)[ndim - 1]
    free = tuple(axis for axis in _axes(out) if axis not in taken)
    return PartitionSpec(*ahead, free if len(free) > 1 else (free[0] if free else None))


def fused_sharding(kernels: Sequence[Any]) -> NamedSharding | None:
    """Returns the fused kernel's sharding where all kernels are on one mesh, else None."""
    shardings = [
        jax.typeof(kernel).sharding if isinstance(kernel, Tracer) else kernel.sharding
        for kernel in kernels
        if hasattr(kernel, "sharding") or isinstance(kernel, Tracer)
    ]
    named = [sharding for sharding in shardings if isinstance(sharding, NamedSharding)]
    if len(named) < len(kernels) or named[0].mesh.empty:
        return None
    if any(sharding.mesh != named[0].mesh for sharding in named):
        return None
    first, last = named[0], named[-1]
    return NamedSharding(first.mesh, fused_spec(first.spec, last.spec, kernels[0].ndim))


def explicit_sharding(sharding: NamedSharding | None) -> NamedSharding | None:
    """Returns a sharding on an explicit mesh, where products must state theirs; else None."""
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return sharding


def dense_sharding(sharding: NamedSharding | None, name: str, leaf: Any) -> NamedSharding | None:
    """Returns the sharding of a fused kernel or bias, given the kernel's."""
    if sharding is None or name == "kernel":
        return sharding
    kernel = tuple(sharding.spec) + (None,) * (leaf.ndim + 1 - len(sharding.spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*kernel[:-2], kernel[-1]))


def row_sharding(sharding: NamedSharding | None, ndim: int) -> NamedSharding | None:
    """Returns the sharding of a product of one row, (..., 1, d_out), given the kernel's."""
    if sharding is None:
        return None
    kernel = tuple(sharding.spec) + (None,) * (ndim - len(sharding.spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*kernel[:-2], None, kernel[-1]))


def place_dense(
    kernel: np.ndarray, bias: np.ndarray | None, first: DenseParams, last: DenseParams
) -> DenseParams:
    """Returns a Dense in the dtype of the last that it replaces, sharded as a fused one would be.

    NumPy arrays where the last has NumPy arrays. On a mesh the kernel keeps the first's input axes
    and the last's output axes, as with `lcjax.algebra.fuse.fuse_dense`; an axis that does not
    divide a width is dropped.

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


def take_units(leaf: Any, units: np.ndarray) -> Any:
    """Returns the entries of an array for some units, along its last axis.

    The array is boxed, sharded and on the host or not, as it was; a mesh axis that does not divide
    the new length is dropped.

    Args:
      leaf: (..., units), boxed or not.
      units: indices, (k,).
    """
    if _boxed(leaf):
        return leaf.replace_boxed(take_units(meta.unbox(leaf), units))
    taken = np.take(np.asarray(leaf), units, axis=-1)
    if not isinstance(leaf, jax.Array):
        return taken
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        spec = (tuple(sharding.spec) + (None,) * leaf.ndim)[: leaf.ndim]
        sharding = _dividing(sharding, spec, taken.shape)
    return jax.device_put(taken, sharding) if leaf.committed else jnp.asarray(taken)


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


def rebox_dense(fused: dict[str, Any], first: Any, last: Any) -> dict[str, Any]:
    """Returns a fused Dense in boxes (partition metadata) like those of what it replaces.

    The kernel's box names first's input axes and last's output axes; a name that would appear twice
    is dropped from the output. Where neither kernel was boxed, nothing is.

    Args:
      fused: kernel (..., d_in, d_out), bias (..., d_out), or one of them.
      first: params of the first layer that it replaces, boxed or not.
      last: params of the last one.
    """
    box = last["kernel"] if _boxed(last["kernel"]) else first["kernel"]
    if not _boxed(box):
        return fused
    if not hasattr(box, "names"):
        return {name: box.replace_boxed(leaf) for name, leaf in fused.items()}
    ndim = meta.unbox(box).ndim
    names = tuple(fused_spec(_names(first["kernel"]), _names(last["kernel"]), ndim))
    names_of = {"kernel": names, "bias": (*names[:-2], names[-1])}
    return {name: box.replace(value=leaf, names=names_of[name]) for name, leaf in fused.items()}


def _boxed(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def _names(leaf: Any) -> PartitionSpec:
    return PartitionSpec(*getattr(leaf, "names", ()))


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)
