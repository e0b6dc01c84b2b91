"""Checkpoints of orbax without a manifest of lcjax, and descriptions of other files."""

from collections.abc import Mapping
from typing import Any

from orbax.checkpoint import v1 as ocp

from lcjax._messages import printable_lines
from lcjax.errors import CheckpointError
from lcjax.io.containers import containers
from lcjax.io.file_paths import orbax_context
from lcjax.io.leaves import DTYPES, flatten, joined, saveable
from lcjax.io.manifest import METADATA

_TREE = "_METADATA"  # in every directory of a tree of orbax
_MAX_SHOWN = 5


def tree_names(target: ocp.path.Path) -> list[str]:
    """Returns the sorted names of the trees in a checkpoint of orbax."""
    return sorted(one.name for one in target.iterdir() if (one / _TREE).exists())


def manifest_from_orbax(
    target: ocp.path.Path, item: str | None, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the manifest of a checkpoint that orbax wrote without lcjax.

    It has shapes and dtypes, but no checksums.

    Raises:
      CheckpointError: orbax cannot read it, or a leaf is not an array.
    """
    try:
        with orbax_context(target):
            tree = ocp.metadata(target, checkpointable_name=item).metadata
        leaves, kinds = flatten(tree), containers(tree)
    except Exception as error:
        if is_system_failure(error):
            raise
        raise CheckpointError(
            f"{target} is {_kind(record)}, and its tree cannot be read: "
            f"{printable_lines(str(error)[:200])}. Restore from another copy, or read it with the "
            "program that wrote it and save the tree with lcjax.save."
        ) from error
    records = {}
    for path, leaf in leaves.items():
        leaf = leaf if hasattr(leaf, "dtype") else _number(target, record, path, leaf)
        if leaf.dtype is None or leaf.dtype.name not in DTYPES or leaf.shape is None:
            raise _not_an_array(target, record, path, f"dtype {leaf.dtype}")
        records[path] = {
            "path": path,
            "shape": tuple(leaf.shape),
            "dtype": leaf.dtype.name,
            "crc32": None,
        }
    metadata = record.get("custom_metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    unknown = {"format": None, "lcjax": None}
    return unknown | {"metadata": metadata, "leaves": records, "containers": kinds}


def is_system_failure(error: Exception) -> bool:
    """Returns whether an error while reading is not the checkpoint's fault: memory or runtime."""
    system = isinstance(error, (MemoryError, RuntimeError))
    return system and not isinstance(error, RecursionError)


def describe_contents(target: ocp.path.Path) -> str:
    """Returns a description of a path that is not a checkpoint, and how to read it."""
    if not target.is_dir():
        return _file(target)
    inside = [one for one in target.iterdir() if one.is_dir()]
    steps = [step for one in inside if one.name == "checkpoints" for step in one.iterdir()]
    found = [one for one in (*inside, *steps) if (one / METADATA).exists()]
    if found:
        shown = ", ".join(str(one) for one in sorted(found)[:_MAX_SHOWN])
        return f"it is a directory of {len(found)} checkpoints; give the path of one: {shown}"
    files = [one for one in target.iterdir() if one.name.startswith("checkpoint_")]
    if files:
        return f"it contains files: {_flax(files[0])}"
    return "it has no state, no _CHECKPOINT_METADATA, no orbax.checkpoint, no commit_success.txt"


def _file(file: ocp.path.Path) -> str:
    if file.name.endswith(".safetensors"):
        return "it is a safetensors file; read it with lcjax.interop.load_safetensors"
    return f"it is a file, expected a directory; {_flax(file)}"


def _flax(file: ocp.path.Path) -> str:
    return (
        "if flax.training.checkpoints wrote it, read it with "
        f"restore_checkpoint({str(file)!r}, None) and save the tree with lcjax.save"
    )


def _kind(record: Mapping[str, Any]) -> str:
    handlers = str(record.get("item_handlers", ""))
    for name, kind in (("Standard", "StandardCheckpointer"), ("PyTreeCheckpoint", "PyTree")):
        if name in handlers:
            return f"a checkpoint of orbax ({kind})"
    return "a checkpoint of orbax"


def _number(target: ocp.path.Path, record: Mapping[str, Any], path: Any, leaf: Any) -> Any:
    try:
        return saveable(path, leaf)
    except TypeError as error:
        raise _not_an_array(target, record, path, type(leaf).__name__) from error


def _not_an_array(
    target: ocp.path.Path, record: Mapping[str, Any], path: Any, what: str
) -> CheckpointError:
    return CheckpointError(
        f"{target} is {_kind(record)}, {printable_lines(joined(path))}: got {what}, expected an "
        "array of numbers. Read it with orbax and save its arrays with lcjax.save."
    )
