"""The manifest of a checkpoint: path, shape, dtype and checksum of every leaf, sealed.

It lies in the checkpoint that orbax writes, as orbax's custom metadata.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.arguments import check_path
from lcjax.leaves import Array, LeafPath, joined

PathLike = str | os.PathLike[str]
ARRAYS = "state"  # what orbax's part of a checkpoint is called
# What orbax adds to the name of what is not finished: given in parts, or whole.
_IN_PARTS, _TEMPORARY = ".partial_save", ".orbax-checkpoint-tmp"
UNFINISHED = (_TEMPORARY, _IN_PARTS, _IN_PARTS + _TEMPORARY)

_FORMAT = 1
_METADATA = "_CHECKPOINT_METADATA"
_PARTS = (ARRAYS, _METADATA, "orbax.checkpoint", "commit_success.txt")  # as orbax names them


class CheckpointError(ValueError):
    """A checkpoint is damaged, unfinished or of another kind, or is not what was asked for.

    The message names the checkpoint and what is wrong with it. Nothing has been restored.
    """


def absolute(path: PathLike) -> ocp.path.Path:
    """Returns a path, relative, with `~` or absolute, as orbax wants it."""
    check_path(path)
    target = ocp.path.Path(path).expanduser()
    return target if "://" in str(target) else target.absolute()


def finished(path: PathLike) -> ocp.path.Path:
    """Returns the absolute path of a checkpoint, once sure that its save came to the end."""
    target = absolute(path)
    begun = any(target.with_name(target.name + suffix).exists() for suffix in UNFINISHED)
    missing = [part for part in _PARTS if not (target / part).exists()]
    if not target.exists() and not begun:
        raise FileNotFoundError(f"{target}: no such checkpoint; there is nothing at this path.")
    if target.exists() and len(missing) == len(_PARTS) and _IN_PARTS not in target.name:
        raise CheckpointError(f"{target} is no checkpoint: it holds no {', no '.join(_PARTS)}.")
    if missing or any(suffix in target.name for suffix in UNFINISHED):
        lacks = ", ".join(missing) or "its final name"
        raise CheckpointError(
            f"{target} is incomplete (missing: {lacks}): its save was interrupted, is still going"
            " on, or files were lost. Delete it and save again."
        )
    return target


def seal(
    leaves: Iterable[Mapping[str, Any]],
    empty: Iterable[LeafPath],
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns the manifest of these leaves, sealed, for orbax to keep.

    Args:
      leaves: what `entry` says of each.
      empty: paths of the dicts that hold nothing.
      metadata: the user's, which JSON can hold.

    Raises:
      TypeError: metadata that JSON cannot hold.
    """
    manifest = {
        "format": _FORMAT,
        "lcjax": version("lcjax"),
        "leaves": list(leaves),
        "empty": list(empty),
        "metadata": _plain_json(metadata),
    }
    return {"lcjax": manifest, "crc32": _checksum(manifest)}


def read_manifest(target: ocp.path.Path) -> dict[str, Any]:
    """Returns the manifest of a finished checkpoint.

    Raises:
      CheckpointError: when there is none, or it was damaged or is of another format.
    """
    try:
        sealed = json.loads((target / _METADATA).read_text())["custom_metadata"]
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(target, f"{_METADATA} is not what orbax writes ({error})") from error
    if not isinstance(sealed, dict) or sealed.keys() != {"lcjax", "crc32"}:
        raise CheckpointError(
            f"{target} is a checkpoint without lcjax's manifest, not written by lcjax.save:"
            " read it with orbax."
        )
    manifest = sealed["lcjax"]
    if sealed["crc32"] != _checksum(manifest):
        raise damaged(target, "its manifest is not what was written")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{target} is of format {manifest['format']} and this lcjax reads format {_FORMAT}:"
            f" install lcjax {manifest['lcjax']}, which wrote it."
        )
    return manifest


def damaged(target: ocp.path.Path, what: str) -> CheckpointError:
    """Returns the error to raise for a checkpoint that is not what was saved."""
    return CheckpointError(f"{target} is damaged: {what}. Restore from another copy.")


def check_names(arrays: Mapping[LeafPath, Any]) -> None:
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


def entry(path: LeafPath, leaf: Array) -> dict[str, Any]:
    """Returns what the manifest says of a leaf."""
    return {"path": path, "shape": leaf.shape, "dtype": leaf.dtype.name, "crc32": crc32(leaf)}


def crc32(leaf: Array) -> int | None:
    """Returns the checksum of a leaf's bytes; None where they are spread over processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return None
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


def _checksum(manifest: Any) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _plain_json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict({} if metadata is None else metadata)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata: {error}; wanted a dict that JSON can hold, of strings, numbers, booleans,"
            " None, lists and dicts."
        ) from error
