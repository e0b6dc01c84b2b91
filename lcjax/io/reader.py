"""Opens checkpoints, of lcjax or of orbax, and reads and verifies their leaves."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from lcjax.errors import CheckpointError
from lcjax.io.containers import as_stored
from lcjax.io.file_paths import (
    CLAIMED,
    UNFINISHED,
    PathLike,
    absolute_path,
    exists,
    orbax_context,
    unfinished_save,
)
from lcjax.io.leaves import Array, LeafPath, describe, flatten, joined, narrowed
from lcjax.io.manifest import (
    ARRAYS,
    METADATA,
    corrupt_error,
    crc32,
    lcjax_manifest,
    read_record,
)
from lcjax.io.orbax_format import (
    describe_contents,
    is_system_failure,
    manifest_from_orbax,
    tree_names,
)

_COMMITTED = "commit_success.txt"
_PARTS = (ARRAYS, METADATA, "orbax.checkpoint", _COMMITTED)  # as named by orbax


class OpenCheckpoint(NamedTuple):
    """A checkpoint whose parts are all present.

    Attributes:
      path: its directory, for orbax.
      item: orbax's name of the tree in it; None if the checkpoint is that tree alone.
      manifest: leaves and containers by path, and metadata. In that of a checkpoint by orbax
        `lcjax`, the version, is None, and there are no checksums.
    """

    path: ocp.path.Path
    item: str | None
    manifest: dict[str, Any]


def open_checkpoint(path: PathLike) -> OpenCheckpoint:
    """Returns the checkpoint at a path, of which only the manifest is read.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: path is not a checkpoint, or is unfinished or damaged.
    """
    target = absolute_path(path)
    _check_present(target)
    if not (target / METADATA).exists() and (target.parent / METADATA).exists():
        if target.name in tree_names(target.parent):  # `PATH/state`, as orbax itself expects
            return _open(target.parent, target.name)
    if not (target / METADATA).exists():
        if not any((target / part).exists() for part in _PARTS[:-1]):  # each item has a commit file
            raise CheckpointError(f"{target} is not a checkpoint: {describe_contents(target)}.")
        raise _incomplete(target)
    return _open(target, None)


def read_leaves(
    source: OpenCheckpoint,
    records: Mapping[LeafPath, Any],
    shardings: Mapping[LeafPath, Sharding],
    *,
    partial: bool = False,
) -> dict[LeafPath, Array]:
    """Returns verified leaves by path: JAX arrays with a sharding, NumPy arrays without.

    Args:
      source: the checkpoint.
      records: the manifest's records of the leaves to read.
      shardings: shardings of some of them.
      partial: whether to read these leaves only; otherwise the checkpoint must have no others.

    Raises:
      CheckpointError: a leaf is missing or damaged.
    """
    abstract = {path: _abstract_leaf(one, shardings.get(path)) for path, one in records.items()}
    stored = {path: leaf for path, leaf in abstract.items() if leaf.size}
    loaded = {}
    if stored:
        loaded = _read(source, as_stored(stored, source.manifest["containers"]), partial)
    leaves = {}
    for path, record in records.items():
        name = tuple(map(str, path))
        if abstract[path].size and name not in loaded:
            raise corrupt_error(source.path, f"{joined(path)} is missing")
        leaf = loaded.get(name, abstract[path])
        checksums = {record["crc32"]} - {None}
        checksums |= {crc32(leaf)} - {None} if checksums else set()
        if describe(leaf) != describe(abstract[path]) or len(checksums) > 1:
            raise corrupt_error(source.path, f"{joined(path)} differs from what was saved")
        leaves[path] = leaf
    return leaves


def _read(source: OpenCheckpoint, tree: Any, partial: bool) -> dict[tuple[str, ...], Any]:
    """Returns the arrays that orbax reads, by path; orbax turns indices in keys into strings."""
    context = orbax_context(source.path)
    context.pytree.loading.partial_load = partial
    try:
        with context:
            loaded = flatten(ocp.load(source.path, tree, checkpointable_name=source.item))
    except Exception as error:
        if is_system_failure(error):
            raise
        raise corrupt_error(
            source.path, f"its arrays cannot be read ({str(error)[:200]})"
        ) from error
    return {tuple(map(str, path)): leaf for path, leaf in loaded.items()}


def _abstract_leaf(record: Mapping[str, Any], sharding: Sharding | None) -> Any:
    """Returns the argument with which orbax loads a leaf, into shards or into NumPy."""
    shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
    if sharding is None or narrowed(dtype) or 0 in shape:
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _open(target: ocp.path.Path, item: str | None) -> OpenCheckpoint:
    record = read_record(target)
    manifest = lcjax_manifest(target, record)
    if manifest is not None:
        if not (target / ARRAYS).exists() or not (target / _COMMITTED).exists():
            raise _incomplete(target)
        return OpenCheckpoint(target, ARRAYS, manifest)
    names = tree_names(target)
    if item is None and len(names) > 1:
        raise CheckpointError(
            f"{target}: got a checkpoint of several trees, {', '.join(names)}; give the path of "
            f"one, such as {target / names[0]}."
        )
    item = item or (names[0] if names else None)
    if item is None and not (target / "_METADATA").exists():
        raise _incomplete(target)
    return OpenCheckpoint(target, item, manifest_from_orbax(target, item, record))


def _check_present(target: ocp.path.Path) -> None:
    unfinished = unfinished_save(target)
    if not exists(target):
        if unfinished is None:
            raise FileNotFoundError(f"{target}: no such checkpoint; this path does not exist.")
        raise CheckpointError(
            f"{target} is incomplete (missing: all): its save was interrupted, or is still "
            f"running, in {unfinished}. Wait for it, or save again to the same path."
        )
    if any(mark in target.name for mark in (CLAIMED, *UNFINISHED)):
        raise CheckpointError(
            f"{target} is incomplete (missing: its final name): its save was interrupted, or is "
            "still running. Wait for it, or save again."
        )
    if not target.is_dir():
        raise CheckpointError(f"{target} is not a checkpoint: {describe_contents(target)}.")


def _incomplete(target: ocp.path.Path) -> CheckpointError:
    missing = ", ".join(part for part in _PARTS if not (target / part).exists())
    return CheckpointError(
        f"{target} is incomplete (missing: {missing}): files were lost or not copied. Copy them, "
        "or restore from another copy."
    )
