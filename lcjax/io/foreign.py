"""Checkpoints that lcjax did not write: what they are, what they hold, how to read them."""

from collections.abc import Mapping
from typing import Any

from orbax.checkpoint import v1 as ocp

from lcjax._messages import printable_lines
from lcjax.io.containers import containers
from lcjax.io.leaves import DTYPES, flatten, joined, saveable
from lcjax.io.locations import orbax_context
from lcjax.io.schema import CheckpointError

_TREE = "_METADATA"  # in every directory that holds a tree of orbax's
_METADATA = "_CHECKPOINT_METADATA"
_SHOWN = 5


def items_in(target: ocp.path.Path) -> list[str]:
    """Returns the names of the trees that a checkpoint of orbax's holds, in order."""
    return sorted(one.name for one in target.iterdir() if (one / _TREE).exists())


def foreign_manifest(
    target: ocp.path.Path, item: str | None, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the manifest of a checkpoint by orbax alone, or by what builds on it.

    It has shapes and dtypes, as orbax tells them, but no checksums.

    Raises:
      CheckpointError: when orbax cannot read it, or a leaf is no array.
    """
    try:
        with orbax_context(target):
            tree = ocp.metadata(target, checkpointable_name=item).metadata
        leaves, kinds = flatten(tree), containers(tree)
    except Exception as error:
        if isinstance(error, (MemoryError, RuntimeError)) and not isinstance(error, RecursionError):
            raise  # not the checkpoint's fault
        raise CheckpointError(
            f"{target} is {_whose(record)}, and its tree cannot be read: "
            f"{printable_lines(str(error)[:200])}. Restore from another copy, or read it with what "
            "wrote it and save that with lcjax.save."
        ) from error
    entries = {}
    for path, leaf in leaves.items():
        leaf = leaf if hasattr(leaf, "dtype") else _number(target, record, path, leaf)
        if leaf.dtype is None or leaf.dtype.name not in DTYPES or leaf.shape is None:
            raise _no_array(target, record, path, f"dtype {leaf.dtype}")
        entries[path] = {
            "path": path,
            "shape": tuple(leaf.shape),
            "dtype": leaf.dtype.name,
            "crc32": None,
        }
    metadata = record.get("custom_metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    known = {"format": None, "lcjax": None, "metadata": metadata}
    return known | {"leaves": entries, "containers": kinds}


def looks_like(target: ocp.path.Path) -> str:
    """Says what lies at a path where no checkpoint is, and how it can be read."""
    if not target.is_dir():
        return _file(target)
    inside = [one for one in target.iterdir() if one.is_dir()]
    found = [one for one in inside if (one / _METADATA).exists()]
    found += [
        step
        for one in inside
        if one.name == "checkpoints"
        for step in one.iterdir()
        if (step / _METADATA).exists()
    ]
    if found:
        shown = ", ".join(str(one) for one in sorted(found)[:_SHOWN])
        return f"it is a directory of {len(found)} checkpoints: name one of them: {shown}"
    files = [one for one in target.iterdir() if one.name.startswith("checkpoint_")]
    if files:
        return f"it holds files: {_flax(files[0])}"
    return "it holds no state, no _CHECKPOINT_METADATA, no orbax.checkpoint, no commit_success.txt"


def _file(file: ocp.path.Path) -> str:
    if file.name.endswith(".safetensors"):
        return "it is a safetensors file: lcjax.interop.load reads it"
    return f"it is a file, and a checkpoint is a directory: {_flax(file)}"


def _flax(file: ocp.path.Path) -> str:
    return (
        "if flax.training.checkpoints wrote it, read it with "
        f"restore_checkpoint({str(file)!r}, None) and save that with lcjax.save"
    )


def _whose(record: Mapping[str, Any]) -> str:
    handlers = str(record.get("item_handlers", ""))
    for name, whose in (("Standard", "StandardCheckpointer"), ("PyTreeCheckpoint", "PyTree")):
        if name in handlers:
            return f"a checkpoint of orbax's ({whose})"
    return "a checkpoint of orbax's"


def _number(target: ocp.path.Path, record: Mapping[str, Any], path: Any, leaf: Any) -> Any:
    try:
        return saveable(path, leaf)
    except TypeError as error:
        raise _no_array(target, record, path, type(leaf).__name__) from error


def _no_array(
    target: ocp.path.Path, record: Mapping[str, Any], path: Any, what: str
) -> CheckpointError:
    return CheckpointError(
        f"{target} is {_whose(record)}, and {printable_lines(joined(path))} in it is no array of "
        f"numbers ({what}). Read it with orbax and save its arrays with lcjax.save."
    )
