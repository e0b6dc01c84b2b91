"""Saves a tree of arrays and restores it bit for bit: no model, no record of what was collapsed.

A checkpoint is an orbax one, which orbax alone can read. Inside the same atomic save goes a
manifest: path, shape, dtype and checksum of every leaf. `restore` verifies all it returns by it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from lcjax.leaves import (
    Array,
    LeafPath,
    describe,
    diff,
    empty_dicts,
    flatten,
    joined,
    nest,
    saveable,
)
from lcjax.manifest import (
    ARRAYS,
    CheckpointError,
    PathLike,
    absolute,
    check_names,
    crc32,
    damaged,
    entry,
    finished,
    read_manifest,
    seal,
)

_LONGEST_DIFF = 20


def save(path: PathLike, compact: Any, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a tree of arrays to a new directory, all of it or nothing.

    Sharded arrays are written shard by shard. In a multi-process run every process calls it.

    Args:
      path: the directory to make, with its parents; relative, with `~` or absolute.
      compact: nested dicts, plain or FrozenDict, or any pytree, of NumPy or JAX arrays; the keys of
        its dicts are strings, or indices as in the states of Flax NNX; boxes are taken off. A
        Python number is saved as NumPy's scalar of the same value (int64, float64).
      metadata: what `read_metadata` shall give back; a dict that JSON can hold.

    Raises:
      FileExistsError: there is something at path: nothing is ever overwritten.
      TypeError: a leaf that is no array of numbers, a key of another kind, metadata that JSON
        cannot hold.
      ValueError: a tree without arrays, a donated array, or two leaves whose names orbax cannot
        tell apart.
    """
    target = absolute(path)
    if target.exists():
        raise FileExistsError(
            f"{target} exists and save never overwrites: name another path or delete it first."
        )
    leaves = {name: saveable(name, leaf) for name, leaf in flatten(compact).items()}
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # orbax refuses size 0
    check_names(arrays)
    entries = [entry(name, leaf) for name, leaf in leaves.items()]
    sealed = seal(entries, empty_dicts(compact), metadata)
    ocp.save(target, nest(arrays), checkpointable_name=ARRAYS, custom_metadata=sealed)


def restore(path: PathLike, *, like: Any = None, sharding: Any = None) -> Any:
    """Returns the tree that `save` wrote, every leaf bit for bit what it was.

    Leaves are JAX arrays, but NumPy arrays where JAX would narrow the dtype (float64 without
    `jax_enable_x64`). Every checksum is verified, but those of arrays spread over processes.

    Args:
      path: what `save` was given.
      like: a tree of arrays or ShapeDtypeStructs whose paths, shapes and dtypes have to be the
        checkpoint's; the result has its containers, its boxes, and its shardings where it has any.
        Without it the result is nested dicts (and lists, where keys were indices).
      sharding: one for all leaves, or a tree of them; it goes before like's.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there was not written by `save`, is unfinished or damaged, or
        differs from like, in which case the message lists the differences.
      TypeError: in a tree of shardings, something else.
      ValueError: a sharding that does not fit the shape of its leaf.
    """
    target = finished(path)
    manifest = read_manifest(target)
    saved = {tuple(entry["path"]): entry for entry in manifest["leaves"]}
    wanted = flatten(like)
    if like is not None:
        given = {name: describe(leaf) for name, leaf in wanted.items()}
        _check_same(target, _described(saved), given, "like")
    shardings = _shardings(target, saved, wanted, sharding)
    leaves = {
        path: jax.device_put(leaf, shardings.get(path)) if fits_jax(leaf) else leaf
        for path, leaf in load(target, saved, shardings).items()
    }
    if like is None:
        return nest(leaves | {tuple(name): {} for name in manifest["empty"]})
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Returns the metadata that `save` was given, as JSON gives it back; {} if there was none.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there was not written by `save`, or is unfinished or damaged.
    """
    return read_manifest(finished(path))["metadata"]


def _described(saved: Mapping[LeafPath, Any]) -> dict[LeafPath, str]:
    return {path: f"{tuple(entry['shape'])} {entry['dtype']}" for path, entry in saved.items()}


def _check_same(
    target: ocp.path.Path, saved: Mapping[LeafPath, str], given: Mapping[LeafPath, str], what: str
) -> None:
    """Raises, with a diff, unless the leaves given are those saved."""
    lines = diff(saved, given, "checkpoint", what)
    if lines:
        hidden = len(lines) - _LONGEST_DIFF
        shown = lines[:_LONGEST_DIFF] + ([f"... and {hidden} more"] if hidden > 0 else [])
        raise CheckpointError(
            f"{target}: checkpoint and {what} differ at {len(lines)} leaves:\n"
            + "\n".join(shown)
            + f"\nGive a {what} with the checkpoint's leaves, or none."
        )


def _shardings(
    target: ocp.path.Path,
    saved: Mapping[LeafPath, Any],
    like: Mapping[LeafPath, Any],
    sharding: Any,
) -> dict[LeafPath, Sharding]:
    """Returns the wanted shardings; a leaf that has none goes to the default device."""
    if isinstance(sharding, Sharding):
        wanted = dict.fromkeys(saved, sharding)
    elif sharding is not None:
        wanted, described = flatten(sharding), _described(saved)
        given = {path: described.get(path, "") for path in wanted}
        _check_same(target, described, given, "sharding")
    else:
        # An array that JAX placed by itself is not committed; what is restored like it is not.
        wanted = {
            path: leaf.sharding
            for path, leaf in like.items()
            if getattr(leaf, "sharding", None) is not None and getattr(leaf, "committed", True)
        }
    for path, one in wanted.items():
        if not isinstance(one, Sharding):
            raise TypeError(f"{joined(path)}: got {one!r}, wanted a jax.sharding.Sharding.")
        try:
            one.shard_shape(tuple(saved[path]["shape"]))
        except (ValueError, IndexError) as error:
            shape = tuple(saved[path]["shape"])
            raise ValueError(f"{joined(path)}: {one} does not fit the shape {shape}.") from error
    return wanted


def load(
    target: ocp.path.Path,
    entries: Mapping[LeafPath, Any],
    shardings: Mapping[LeafPath, Sharding],
    *,
    partial: bool = False,
) -> dict[LeafPath, Array]:
    """Returns leaves by path, NumPy arrays but where they have a sharding; verified.

    Args:
      target: what `finished` returned.
      entries: what the manifest says of the leaves to read.
      shardings: of some of them.
      partial: whether the checkpoint may hold others, which are not read.

    Raises:
      CheckpointError: when a leaf is not what was saved.
    """
    blanks = {path: _blank(saved, shardings.get(path)) for path, saved in entries.items()}
    stored = {path: blank for path, blank in blanks.items() if blank.size}
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            loaded = ocp.load(target, nest(stored), checkpointable_name=ARRAYS) if stored else {}
        loaded = flatten(loaded)
    except (MemoryError, RuntimeError):  # not the checkpoint's fault
        raise
    except Exception as error:
        raise damaged(target, f"its arrays cannot be read ({str(error)[:200]})") from error
    leaves = {}
    for path, saved in entries.items():
        leaf = loaded.get(path, blanks[path])
        checksums = {crc32(leaf), saved["crc32"]} - {None}
        if describe(leaf) != describe(blanks[path]) or len(checksums) > 1:
            raise damaged(target, f"{joined(path)} is not what was saved")
        leaves[path] = leaf
    return leaves


def fits_jax(leaf: Array) -> bool:
    """Tells whether a leaf is in NumPy and JAX would hold it without narrowing its dtype."""
    return isinstance(leaf, np.ndarray) and not _narrowed(leaf.dtype)


def _blank(entry: Mapping[str, Any], sharding: Sharding | None) -> Any:
    """Returns what makes orbax load a leaf in shards if it has a sharding, else into NumPy."""
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    if sharding is None or _narrowed(dtype) or 0 in shape:
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _narrowed(dtype: np.dtype) -> bool:
    return jax.dtypes.canonicalize_dtype(dtype) != dtype
