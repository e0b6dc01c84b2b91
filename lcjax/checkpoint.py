"""Saves a tree of arrays and restores it bit for bit: no model, no record of what was collapsed.

A checkpoint is an orbax one, which orbax alone can read. Inside the same atomic save goes a
manifest: path, shape, dtype and checksum of every leaf. `restore` verifies all it returns by it.
"""

import json
import os
import zlib
from collections.abc import Mapping
from importlib.metadata import version
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

_FORMAT = 1
_ARRAYS, _METADATA = "state", "_CHECKPOINT_METADATA"
_PARTS = (_ARRAYS, _METADATA, "orbax.checkpoint", "commit_success.txt")  # as orbax names them
_TEMPORARY = ".orbax-checkpoint-tmp"
_LONGEST_DIFF = 20

_PathLike = str | os.PathLike[str]


class CheckpointError(ValueError):
    """A checkpoint is damaged, unfinished or of another kind, or is not what was asked for.

    The message names the checkpoint and what is wrong with it. Nothing has been restored.
    """


def save(path: _PathLike, compact: Any, *, metadata: Mapping[str, Any] | None = None) -> None:
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
    target = _absolute(path)
    if target.exists():
        raise FileExistsError(
            f"{target} exists and save never overwrites: name another path or delete it first."
        )
    leaves = {name: saveable(name, leaf) for name, leaf in flatten(compact).items()}
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # orbax refuses size 0
    _check_names(arrays)
    manifest = {
        "format": _FORMAT,
        "lcjax": version("lcjax"),
        "leaves": [_entry(name, leaf) for name, leaf in leaves.items()],
        "empty": empty_dicts(compact),
        "metadata": _plain_json(metadata),
    }
    sealed = {"lcjax": manifest, "crc32": _seal(manifest)}
    ocp.save(target, nest(arrays), checkpointable_name=_ARRAYS, custom_metadata=sealed)


def restore(path: _PathLike, *, like: Any = None, sharding: Any = None) -> Any:
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
    target = _finished(path)
    manifest = _read_manifest(target)
    saved = {tuple(entry["path"]): entry for entry in manifest["leaves"]}
    wanted = flatten(like)
    if like is not None:
        given = {name: describe(leaf) for name, leaf in wanted.items()}
        _check_same(target, _described(saved), given, "like")
    leaves = _load(target, saved, _shardings(target, saved, wanted, sharding))
    if like is None:
        return nest(leaves | {tuple(name): {} for name in manifest["empty"]})
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def read_metadata(path: _PathLike) -> dict[str, Any]:
    """Returns the metadata that `save` was given, as JSON gives it back; {} if there was none.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there was not written by `save`, or is unfinished or damaged.
    """
    return _read_manifest(_finished(path))["metadata"]


def _absolute(path: _PathLike) -> ocp.path.Path:
    target = ocp.path.Path(path).expanduser()
    return target if "://" in str(target) else target.absolute()


def _finished(path: _PathLike) -> ocp.path.Path:
    """Returns the absolute path of a checkpoint, once sure that its save came to the end."""
    target = _absolute(path)
    temporary = target.with_name(target.name + _TEMPORARY)
    missing = [part for part in _PARTS if not (target / part).exists()]
    if not target.exists() and not temporary.exists():
        raise FileNotFoundError(f"{target}: no such checkpoint; there is nothing at this path.")
    if target.exists() and len(missing) == len(_PARTS):
        raise CheckpointError(f"{target} is no checkpoint: it holds no {', no '.join(_PARTS)}.")
    if missing or _TEMPORARY in target.name:
        lacks = ", ".join(missing) or "its final name"
        raise CheckpointError(
            f"{target} is incomplete (missing: {lacks}): its save was interrupted, is still going"
            " on, or files were lost. Delete it and save again."
        )
    return target


def _read_manifest(target: ocp.path.Path) -> dict[str, Any]:
    try:
        sealed = json.loads((target / _METADATA).read_text())["custom_metadata"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(target, f"{_METADATA} is not what orbax writes ({error})") from error
    if not isinstance(sealed, dict) or sealed.keys() != {"lcjax", "crc32"}:
        raise CheckpointError(
            f"{target} is a checkpoint without lcjax's manifest, not written by lcjax.save:"
            " read it with orbax."
        )
    manifest = sealed["lcjax"]
    if sealed["crc32"] != _seal(manifest):
        raise _damaged(target, "its manifest is not what was written")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{target} is of format {manifest['format']} and this lcjax reads format {_FORMAT}:"
            f" install lcjax {manifest['lcjax']}, which wrote it."
        )
    return manifest


def _seal(manifest: Any) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _damaged(target: ocp.path.Path, what: str) -> CheckpointError:
    return CheckpointError(f"{target} is damaged: {what}. Restore from another copy.")


def _plain_json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict({} if metadata is None else metadata)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata: {error}; wanted a dict that JSON can hold, of strings, numbers, booleans,"
            " None, lists and dicts."
        ) from error


def _check_names(arrays: Mapping[LeafPath, Any]) -> None:
    """Raises unless orbax, which joins keys by dots, has a name for every array."""
    if not arrays or () in arrays:
        raise ValueError("compact: got no named array with elements in it; wanted a tree of them.")
    stored: dict[str, LeafPath] = {}
    for path in arrays:
        other = stored.setdefault(".".join(map(str, path)), path)
        if other != path:
            raise ValueError(
                f"{joined(other)} and {joined(path)}: orbax stores both under one name, the keys"
                " joined by dots. Rename one."
            )


def _entry(path: LeafPath, leaf: Array) -> dict[str, Any]:
    return {"path": path, "shape": leaf.shape, "dtype": leaf.dtype.name, "crc32": _crc32(leaf)}


def _crc32(leaf: Array) -> int | None:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return None
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


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


def _load(
    target: ocp.path.Path, saved: Mapping[LeafPath, Any], shardings: Mapping[LeafPath, Sharding]
) -> dict[LeafPath, Array]:
    """Returns the leaves, verified against their entries in the manifest."""
    blanks = {path: _blank(entry, shardings.get(path)) for path, entry in saved.items()}
    stored = {path: blank for path, blank in blanks.items() if blank.size}
    try:
        loaded = flatten(ocp.load(target, nest(stored), checkpointable_name=_ARRAYS))
    except (MemoryError, RuntimeError):  # not the checkpoint's fault
        raise
    except Exception as error:
        raise _damaged(target, f"its arrays cannot be read ({str(error)[:200]})") from error
    leaves = {}
    for path, entry in saved.items():
        leaf = loaded.get(path, blanks[path])
        checksums = {_crc32(leaf), entry["crc32"]} - {None}
        if describe(leaf) != describe(blanks[path]) or len(checksums) > 1:
            raise _damaged(target, f"{joined(path)} is not what was saved")
        on_host = isinstance(leaf, np.ndarray) and not _narrowed(leaf.dtype)
        leaves[path] = jax.device_put(leaf, shardings.get(path)) if on_host else leaf
    return leaves


def _blank(entry: Mapping[str, Any], sharding: Sharding | None) -> Any:
    """Returns what makes orbax load a leaf in shards if it has a sharding, else into NumPy."""
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    if sharding is None or _narrowed(dtype) or 0 in shape:
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _narrowed(dtype: np.dtype) -> bool:
    return jax.dtypes.canonicalize_dtype(dtype) != dtype
