"""Reads leaves of a checkpoint and verifies every one."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from lcjax.io.containers import as_stored
from lcjax.io.leaves import Array, LeafPath, describe, flatten, joined
from lcjax.io.locations import orbax_context
from lcjax.io.manifest import crc32, damaged
from lcjax.io.opening import Opened


def load(
    source: Opened,
    entries: Mapping[LeafPath, Any],
    shardings: Mapping[LeafPath, Sharding],
    *,
    partial: bool = False,
) -> dict[LeafPath, Array]:
    """Returns leaves by path, NumPy arrays but where they have a sharding; verified.

    Args:
      source: the checkpoint.
      entries: what its manifest says of the leaves to read.
      shardings: of some of them.
      partial: whether the checkpoint may hold others, which are not read.

    Raises:
      CheckpointError: when a leaf is not what was saved.
    """
    blanks = {path: _blank(saved, shardings.get(path)) for path, saved in entries.items()}
    stored = {path: blank for path, blank in blanks.items() if blank.size}
    loaded = {}
    if stored:
        loaded = _read(source, as_stored(stored, source.manifest["containers"]), partial)
    leaves = {}
    for path, saved in entries.items():
        name = tuple(map(str, path))
        if blanks[path].size and name not in loaded:
            raise damaged(source.path, f"{joined(path)} is missing")
        leaf = loaded.get(name, blanks[path])
        checksums = {saved["crc32"]} - {None}
        checksums |= {crc32(leaf)} - {None} if checksums else set()
        if describe(leaf) != describe(blanks[path]) or len(checksums) > 1:
            raise damaged(source.path, f"{joined(path)} is not what was saved")
        leaves[path] = leaf
    return leaves


def fits_jax(leaf: Array) -> bool:
    """Tells whether a leaf is in NumPy and JAX would hold it without narrowing its dtype."""
    return isinstance(leaf, np.ndarray) and not _narrowed(leaf.dtype)


def _read(source: Opened, wanted: Any, partial: bool) -> dict[tuple[str, ...], Any]:
    """Returns the arrays that orbax reads, by path; orbax has strings for indices as keys."""
    context = orbax_context(source.path)
    context.pytree.loading.partial_load = partial
    try:
        with context:
            loaded = flatten(ocp.load(source.path, wanted, checkpointable_name=source.item))
    except Exception as error:
        if isinstance(error, (MemoryError, RuntimeError)) and not isinstance(error, RecursionError):
            raise  # not the checkpoint's fault
        raise damaged(source.path, f"its arrays cannot be read ({str(error)[:200]})") from error
    return {tuple(map(str, path)): leaf for path, leaf in loaded.items()}


def _blank(entry: Mapping[str, Any], sharding: Sharding | None) -> Any:
    """Returns what makes orbax load a leaf in shards if it has a sharding, else into NumPy."""
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    if sharding is None or _narrowed(dtype) or 0 in shape:
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _narrowed(dtype: np.dtype) -> bool:
    return jax.dtypes.canonicalize_dtype(dtype) != dtype
