"""The manifest of a checkpoint: path, shape, dtype and checksum of every leaf.

It is stored in the checkpoint as orbax's custom metadata, with a checksum of its own.
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
from lcjax.errors import CheckpointError, DamagedError
from lcjax.io.containers import Containers
from lcjax.io.leaves import Array, LeafPath, joined
from lcjax.io.manifest_schema import checksum, parse_manifest

ARRAYS = "state"  # name of the tree in orbax's checkpoint
METADATA = "_CHECKPOINT_METADATA"

_FORMAT = 2
_MARKS = ('"lcjax"', '"crc32"', '"leaves"')  # two of them appear only in manifests of lcjax
_LARGEST = 2**26  # bytes of a manifest: some 500,000 leaves


def make_manifest(
    leaves: Iterable[Mapping[str, Any]],
    containers: Containers,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns the manifest and its checksum, as custom metadata for orbax.

    Args:
      leaves: the `leaf_record` of each leaf.
      containers: the result of `lcjax.io.containers.containers` for the tree.
      metadata: the user's metadata.

    Raises:
      TypeError: metadata that JSON cannot represent.
      ValueError: too many leaves or too much metadata.
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
            f"manifest: got {size:,} bytes of {len(manifest['leaves']):,} leaves and metadata, "
            f"expected at most {_LARGEST // 2:,}; stack leaves, or shorten the metadata."
        )
    return {"lcjax": manifest, "crc32": checksum(manifest)}


def read_manifest(target: ocp.path.Path) -> dict[str, Any]:
    """Returns the validated manifest of a complete checkpoint of lcjax.

    Raises:
      CheckpointError: the manifest is missing, damaged or of another format.
    """
    manifest = lcjax_manifest(target, read_record(target))
    if manifest is None:
        raise CheckpointError(f"{target}: expected a checkpoint with a manifest of lcjax.")
    return manifest


def read_record(target: ocp.path.Path) -> dict[str, Any]:
    """Returns orbax's own metadata of a checkpoint.

    Raises:
      CheckpointError: they cannot be read.
    """
    try:
        file = target / METADATA
        size = file.stat().length
        if size > _LARGEST:
            raise ValueError(f"got {size:,} bytes, expected at most {_LARGEST:,}")
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or "item_handlers" not in record:
            raise TypeError("expected an object with item_handlers")
    except (ValueError, TypeError, RecursionError, IsADirectoryError) as error:
        raise corrupt_error(target, f"{METADATA} cannot be read ({error})") from error
    return record


def lcjax_manifest(target: ocp.path.Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the validated manifest in orbax's metadata; None without one.

    Raises:
      CheckpointError: the manifest is damaged or of another format.
    """
    sealed = record.get("custom_metadata")
    if not isinstance(sealed, dict) or sealed.keys() != {"lcjax", "crc32"}:
        text = json.dumps(record)
        if sum(mark in text for mark in _MARKS) > 1:  # a part of the manifest was lost
            raise corrupt_error(target, "its manifest differs from what was saved")
        return None
    manifest = sealed["lcjax"]
    if sealed["crc32"] != checksum(manifest) or not isinstance(manifest, dict):
        raise corrupt_error(target, "its manifest differs from what was saved")
    form = manifest.get("format")
    if type(form) is not int:
        raise corrupt_error(target, "its manifest is invalid: expected a format")
    if form not in (1, _FORMAT):
        raise CheckpointError(
            f"{target}: got format {form}, expected at most {_FORMAT}; install lcjax "
            f"{printable_lines(str(manifest.get('lcjax')))}, which wrote it."
        )
    try:
        return parse_manifest(manifest)
    except (ValueError, RecursionError) as error:
        raise corrupt_error(target, f"its manifest is invalid: {error}") from error


def corrupt_error(target: ocp.path.Path, reason: str) -> DamagedError:
    """Returns the error for a checkpoint that differs from what was saved."""
    return DamagedError(
        f"{target} is damaged: {printable_lines(reason)}. Restore from another copy."
    )


def check_names(arrays: Mapping[LeafPath, Any]) -> None:
    """Raises unless the names of all arrays in orbax are distinct.

    orbax joins keys by dots, and TensorStore ignores a slash at the end.
    """
    if not arrays or () in arrays:
        raise ValueError("tree: got no array with elements, expected a dict with at least one.")
    stored: dict[str, LeafPath] = {}
    for path in arrays:
        try:
            joined(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{joined(path)!r}: got a key that is not UTF-8, expected text; rename it."
            ) from error
        other = stored.setdefault(".".join(map(str, path)).rstrip("/"), path)
        if other != path:
            raise ValueError(
                f"{joined(other)} and {joined(path)}: orbax stores both under one name, the "
                "keys joined by dots without a slash at the end; rename one."
            )


def leaf_record(path: LeafPath, leaf: Array) -> dict[str, Any]:
    """Returns the manifest's record of a leaf."""
    return {"path": path, "shape": leaf.shape, "dtype": leaf.dtype.name, "crc32": crc32(leaf)}


def crc32(leaf: Array) -> int | None:
    """Returns the checksum of a leaf's bytes; None if they are spread over processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return None
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


def _plain_json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict({} if metadata is None else metadata)))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"metadata: {error}; expected a dict of strings, numbers, booleans, None, lists and "
            "dicts, which JSON can represent."
        ) from error
