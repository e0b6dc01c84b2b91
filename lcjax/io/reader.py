"""Finds out what lies at a path, and opens it if it is a checkpoint, lcjax's own or another's."""

from typing import Any, NamedTuple

from orbax.checkpoint import v1 as ocp

from lcjax.io.foreign import foreign_manifest, items_in, looks_like
from lcjax.io.locations import CLAIMED, UNFINISHED, PathLike, absolute, begun, exists
from lcjax.io.manifest import ARRAYS, METADATA, own_manifest, read_record
from lcjax.io.schema import CheckpointError

_COMMITTED = "commit_success.txt"
_PARTS = (ARRAYS, METADATA, "orbax.checkpoint", _COMMITTED)  # as orbax names them


class Opened(NamedTuple):
    """A checkpoint that is whole as far as its parts tell.

    Attributes:
      path: as orbax wants it.
      item: what orbax calls the tree in it; None where the checkpoint is that tree alone.
      manifest: with leaves and containers by path. One that lcjax did not write has no version
        (`lcjax` is None) and no checksums.
    """

    path: ocp.path.Path
    item: str | None
    manifest: dict[str, Any]


def opened(path: PathLike) -> Opened:
    """Returns the checkpoint at a path.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there is no checkpoint, or an unfinished or damaged one.
    """
    target = absolute(path)
    _check_there(target)
    if not (target / METADATA).exists() and (target.parent / METADATA).exists():
        if target.name in items_in(target.parent):  # `PATH/state`, as orbax alone wants it
            return _opened(target.parent, target.name)
    if not (target / METADATA).exists():
        if not any((target / part).exists() for part in _PARTS[:-1]):  # each item is committed
            raise CheckpointError(f"{target} is no checkpoint: {looks_like(target)}.")
        raise _incomplete(target)
    return _opened(target, None)


def _opened(target: ocp.path.Path, item: str | None) -> Opened:
    record = read_record(target)
    manifest = own_manifest(target, record)
    if manifest is not None:
        if not (target / ARRAYS).exists() or not (target / _COMMITTED).exists():
            raise _incomplete(target)
        return Opened(target, ARRAYS, manifest)
    items = items_in(target)
    if item is None and len(items) > 1:
        raise CheckpointError(
            f"{target} is a checkpoint of several trees: {', '.join(items)}. Name one of them, "
            f"such as {target / items[0]}."
        )
    item = item or (items[0] if items else None)
    if item is None and not (target / "_METADATA").exists():
        raise _incomplete(target)
    return Opened(target, item, foreign_manifest(target, item, record))


def _check_there(target: ocp.path.Path) -> None:
    left = begun(target)
    if not exists(target):
        if left is None:
            raise FileNotFoundError(f"{target}: no such checkpoint; there is nothing at this path.")
        raise CheckpointError(
            f"{target} is incomplete (missing: all): its save was interrupted, or is still going "
            f"on, in {left}. Wait for it, or save again to the same path."
        )
    if any(mark in target.name for mark in (CLAIMED, *UNFINISHED)):
        raise CheckpointError(
            f"{target} is incomplete (missing: its final name): its save was interrupted, or is "
            "still going on. Wait for it, or save again."
        )
    if not target.is_dir():
        raise CheckpointError(f"{target} is no checkpoint: {looks_like(target)}.")


def _incomplete(target: ocp.path.Path) -> CheckpointError:
    missing = ", ".join(part for part in _PARTS if not (target / part).exists())
    return CheckpointError(
        f"{target} is incomplete (missing: {missing}): files were lost, or were not copied with "
        "the others. Copy them too, or restore from another copy."
    )
