"""Saves a tree of arrays and restores it bitwise, without its model.

A checkpoint is one of orbax, which orbax can read without lcjax. The same atomic save adds a
manifest: the containers, and path, shape, dtype and checksum of every leaf, by which `restore`
verifies what it returns.
"""

from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lcjax.io.atomic_write import atomic_write
from lcjax.io.containers import as_stored, assemble, containers
from lcjax.io.file_paths import PathLike, absolute_path, orbax_context
from lcjax.io.leaves import flatten, in_jax, saveable
from lcjax.io.manifest import ARRAYS, check_names, leaf_record, make_manifest
from lcjax.io.reader import open_checkpoint, read_leaves
from lcjax.io.template import check_like, leaf_shardings, with_saved_fused
from lcjax.io.verify import verify
from lcjax.validation.modules import check_saveable


def save(path: PathLike, tree: Any, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a tree of arrays to a new directory, all of it or nothing.

    Sharded arrays are written shard by shard. In a multi-process job every process must call it.
    Of several concurrent saves to one path one succeeds, and the others raise immediately.

    Args:
      path: the directory to create, with its parents: a relative path, one with `~`, an absolute
        one or a URL. It may contain any character except NUL and the backslash, also patterns such
        as `lr=[1,2]`.
      tree: nested dicts, plain or FrozenDict, or any pytree, of NumPy or JAX arrays of any shape;
        keys of its dicts are strings, or indices as in the states of Flax NNX; boxes are removed.
        A Python number becomes a NumPy scalar of the same value (int64, float64).
      metadata: a dict of JSON values that `read_metadata` returns.

    Raises:
      FileExistsError: path exists, or another save is writing to it; nothing is overwritten.
      TypeError: a module; a leaf that is not an array of numbers, a key of another kind, metadata
        that JSON cannot represent, a path that is neither a string nor PathLike.
      ValueError: a tree without arrays, a donated array, two leaves with the same name in orbax, or
        an invalid path.

    Example:
      >>> import numpy as np, tempfile, lcjax
      >>> path = tempfile.mkdtemp() + "/model"
      >>> lcjax.save(path, {"params": {"kernel": np.ones((2, 3))}}, metadata={"step": 10})
      >>> lcjax.restore(path)["params"]["kernel"].shape, lcjax.read_metadata(path)
      ((2, 3), {'step': 10})
    """
    check_saveable(tree)
    target = absolute_path(path)
    leaves = {name: saveable(name, leaf) for name, leaf in flatten(tree).items()}
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # orbax rejects size 0
    check_names(arrays)
    kinds = containers(tree)
    records = {name: leaf_record(name, leaf) for name, leaf in leaves.items()}
    manifest = make_manifest(records.values(), kinds, metadata)
    with atomic_write(target, verify) as place, orbax_context(place):
        ocp.save(
            place, as_stored(arrays, kinds), checkpointable_name=ARRAYS, custom_metadata=manifest
        )


def restore(path: PathLike, *, like: Any = None, sharding: Any = None) -> Any:
    """Returns the tree that `save` wrote, bitwise identical.

    Leaves are JAX arrays, or NumPy arrays where JAX would narrow the dtype (float64 without
    `jax_enable_x64`). All checksums are verified, except those of arrays spread over processes.
    Checkpoints of orbax, and those of training runs, can be read too; orbax stores no checksums,
    so damage in its checkpoints may go unnoticed.

    Args:
      path: the directory that `save` created.
      like: a tree of arrays or ShapeDtypeStructs with the paths, shapes and dtypes of the
        checkpoint; the result has its containers and boxes, and its shardings if it has any. The
        entries under `fused` of a collapsible function are returned as saved, because a fit adds
        biases and factors that `abstract_collapse` does not know. Without like the result has the
        saved dicts, lists, tuples and Nones; other containers become dicts of their fields.
      sharding: one sharding for all leaves, or a tree of them; overrides like's.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: path is not a checkpoint, is unfinished or damaged, or differs from like; the
        message lists the differences.
      TypeError: a leaf in a tree of shardings that is not a sharding.
      ValueError: a sharding that does not fit the shape of its leaf.

    Example:
      >>> import tempfile, jax.numpy as jnp, lcjax
      >>> path = tempfile.mkdtemp() + "/model"
      >>> lcjax.save(path, {"params": {"w": jnp.ones((2, 3))}}, metadata={"epoch": 3})
      >>> lcjax.restore(path)["params"]["w"].shape
      (2, 3)
    """
    source = open_checkpoint(path)
    saved = source.manifest["leaves"]
    like = with_saved_fused(like, source.manifest)
    if like is not None:
        check_like(source.path, saved, like)
    shardings = leaf_shardings(source.path, saved, like, sharding)
    leaves = {
        path: in_jax(leaf, shardings.get(path))
        for path, leaf in read_leaves(source, saved, shardings).items()
    }
    if like is None:
        return assemble(leaves, source.manifest["containers"])
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in flatten(like)])


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Returns the metadata that `save` was given, as decoded by JSON; {} without any.

    Args:
      path: the directory that `save` created.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: path is not a checkpoint, or is unfinished or damaged.

    Example:
      >>> import tempfile, jax.numpy as jnp, lcjax
      >>> path = tempfile.mkdtemp() + "/model"
      >>> lcjax.save(path, {"params": {"w": jnp.ones((2, 3))}}, metadata={"epoch": 3})
      >>> lcjax.read_metadata(path)
      {'epoch': 3}
    """
    return open_checkpoint(path).manifest["metadata"]
