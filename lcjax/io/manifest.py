"""The manifest of a checkpoint: path, shape, dtype and checksum of every leaf, sealed.

It lies in the checkpoint that orbax writes, as orbax's custom metadata.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax._messages import printable_lines
from lcjax.io.containers import Containers
from lcjax.io.leaves import Array, LeafPath, joined
from lcjax.io.schema import CheckpointError, DamagedError, checked, checksum

ARRAYS = "state"  # what orbax's part of a checkpoint is called
METADATA = "_CHECKPOINT_METADATA"

_FORMAT = 2
_MARKS = ('"lcjax"', '"crc32"', '"leaves"')  # any two of which only lcjax writes
_LARGEST = 2**26  # bytes of a manifest: some 500,000 leaves


def seal(
    leaves: Iterable[Mapping[str, Any]],
    containers: Containers,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns the manifest of these leaves, sealed, for orbax to keep.

    Args:
      leaves: what `entry` says of each.
      containers: what `lcjax.io.containers.containers` says of the tree.
      metadata: the user's, which JSON can hold.

    Raises:
      TypeError: metadata that JSON cannot hold.
      ValueError: more leaves or metadata than a manifest can hold.
    """
    manifest = {
        "format": _FORMAT,
        "lcjax": version("lcjax"),
        "leaves": list(leaves),
        "containers": [[list(path), kind] for path, kind in containers.items()],
        "metadata": _plain_json(metadata),
    }
    size = len(json.dumps(manifest))
    if size > _LARGEST // 2:
        raise ValueError(
            f"the manifest of {len(manifest['leaves']):,} leaves and the metadata takes {size:,} "
            f"bytes; expected at most {_LARGEST // 2:,}: stack leaves, or shorten the metadata."
        )
    return {"lcjax": manifest, "crc32": checksum(manifest)}


def read_manifest(target: ocp.path.Path) -> dict[str, Any]:
    """Returns the manifest of a finished checkpoint that lcjax wrote, checked.

    Raises:
      CheckpointError: when there is none, or it was damaged or is of another format.
    """
    manifest = own_manifest(target, read_record(target))
    if manifest is None:
        raise CheckpointError(f"{target} is a checkpoint without lcjax's manifest.")
    return manifest


def read_record(target: ocp.path.Path) -> dict[str, Any]:
    """Returns what orbax records of a checkpoint.

    Raises:
      CheckpointError: when it cannot be read.
    """
    try:
        file = target / METADATA
        size = file.stat().length
        if size > _LARGEST:
            raise ValueError(f"it has {size:,} bytes; expected at most {_LARGEST:,}")
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or "item_handlers" not in record:
            raise TypeError("it does not say what the checkpoint holds")
    except (ValueError, TypeError, RecursionError, IsADirectoryError) as error:
        raise damaged(target, f"{METADATA} is not what orbax writes ({error})") from error
    return record


def own_manifest(target: ocp.path.Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns lcjax's manifest out of orbax's record, checked; None where there is none.

    Raises:
      CheckpointError: when it was damaged or is of another format.
    """
    sealed = record.get("custom_metadata")
    if not isinstance(sealed, dict) or sealed.keys() != {"lcjax", "crc32"}:
        text = json.dumps(record)
        if sum(mark in text for mark in _MARKS) > 1:  # lcjax's, of which a part was lost
            raise damaged(target, "its manifest is not what was written")
        return None
    manifest = sealed["lcjax"]
    if sealed["crc32"] != checksum(manifest) or not isinstance(manifest, dict):
        raise damaged(target, "its manifest is not what was written")
    form = manifest.get("format")
    if form not in (1, _FORMAT):
        raise CheckpointError(
            f"{target} is of format {form} and this lcjax reads formats 1 and {_FORMAT}:"
            f" install lcjax {printable_lines(str(manifest.get('lcjax')))}, which wrote it."
        )
    try:
        return checked(manifest)
    except (ValueError, RecursionError) as error:
        raise damaged(target, f"its manifest is not one that lcjax writes: {error}") from error


def damaged(target: ocp.path.Path, what: str) -> DamagedError:
    """Returns the error to raise for a checkpoint that is not what was saved."""
    return DamagedError(f"{target} is damaged: {printable_lines(what)}. Restore from another copy.")


def check_names(arrays: Mapping[LeafPath, Any]) -> None:
    """Raises unless orbax, which joins keys by dots, has a name for every array."""
    if not arrays or () in arrays:
        raise ValueError("compact: got no named array with elements in it; wanted a tree of them.")
    stored: dict[str, LeafPath] = {}
    for path in arrays:
        try:
            joined(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{joined(path)!r}: got a key that is no UTF-8, expected text. Rename it."
            ) from error
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


def _plain_json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict({} if metadata is None else metadata)))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"metadata: {error}; wanted a dict that JSON can hold, of strings, numbers, booleans,"
            " None, lists and dicts."
        ) from error
