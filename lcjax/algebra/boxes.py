"""Partition metadata of fused kernels: boxes around leaves, taken off and put on again."""

from typing import Any

from flax.core import meta
from jax.sharding import PartitionSpec

from lcjax.algebra.fuse import fused_spec


def box_dense(fused: dict[str, Any], first: Any, last: Any) -> dict[str, Any]:
    """Returns a fused Dense in boxes like those of the Denses it came from.

    The kernel's box names first's input axes and last's output axes; a name that would stand twice
    is dropped from the output. Where neither kernel was boxed, nothing is.

    Args:
      fused: kernel (..., d_in, d_out), optional bias (..., d_out).
      first: params of the first Dense of the run, boxed or not.
      last: params of the last one.
    """
    box = last["kernel"] if _boxed(last["kernel"]) else first["kernel"]
    if not _boxed(box):
        return fused
    if not hasattr(box, "names"):
        return {name: box.replace_boxed(leaf) for name, leaf in fused.items()}
    ndim = fused["kernel"].ndim
    names = tuple(fused_spec(_names(first["kernel"]), _names(last["kernel"]), ndim))
    boxed = {"kernel": box.replace(value=fused["kernel"], names=names)}
    if "bias" in fused:
        boxed["bias"] = box.replace(value=fused["bias"], names=(*names[:-2], names[-1]))
    return boxed


def _boxed(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def _names(leaf: Any) -> PartitionSpec:
    return PartitionSpec(*getattr(leaf, "names", ()))
