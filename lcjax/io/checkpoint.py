"""Saves a tree of arrays and restores it bit for bit: no model, no record of what was collapsed.

A checkpoint is an orbax one, which orbax alone can read. Inside the same atomic save goes a
manifest: the containers, and path, shape, dtype and checksum of every leaf. `restore` verifies all
it returns by it.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from lcjax._messages import printable_lines
from lcjax.io.claims import claimed
from lcjax.io.containers import as_stored, assemble, containers
from lcjax.io.fused_like import with_fused
from lcjax.io.leaves import LeafPath, describe, diff, flatten, joined, saveable
from lcjax.io.loading import fits_jax, load
from lcjax.io.locations import PathLike, absolute, orbax_context
from lcjax.io.manifest import ARRAYS, check_names, entry, seal
from lcjax.io.opening import opened
from lcjax.io.schema import CheckpointError
from lcjax.io.verifying import verify

_LONGEST_DIFF = 20


def save(path: PathLike, compact: Any, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a tree of arrays to a new directory, all of it or nothing.

    Sharded arrays are written shard by shard. In a multi-process run every process calls it. Of
    several that save to one path at the same time one wins, and the others raise at once.

    Args:
      path: the directory to make, with its parents; relative, with `~`, absolute or a URL. It may
        hold any character but NUL and the backslash, and patterns such as `lr=[1,2]` too.
      compact: nested dicts, plain or FrozenDict, or any pytree, of NumPy or JAX arrays; the keys of
        its dicts are strings, or indices as in the states of Flax NNX; boxes are taken off. A
        Python number is saved as NumPy's scalar of the same value (int64, float64).
      metadata: what `read_metadata` shall give back; a dict that JSON can hold.

    Raises:
      FileExistsError: there is something at path, or another save is writing there: nothing is
        ever overwritten.
      TypeError: a leaf that is no array of numbers, a key of another kind, metadata that JSON
        cannot hold, a path that is neither a string nor PathLike.
      ValueError: a tree without arrays, a donated array, two leaves whose names orbax cannot
        tell apart, or a path that no checkpoint can have.
    """
    target = absolute(path)
    leaves = {name: saveable(name, leaf) for name, leaf in flatten(compact).items()}
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}  # orbax refuses size 0
    check_names(arrays)
    kinds = containers(compact)
    entries = {name: entry(name, leaf) for name, leaf in leaves.items()}
    sealed = seal(entries.values(), kinds, metadata)
    with claimed(target, verify) as place, orbax_context(place):
        ocp.save(
            place, as_stored(arrays, kinds), checkpointable_name=ARRAYS, custom_metadata=sealed
        )


def restore(path: PathLike, *, like: Any = None, sharding: Any = None) -> Any:
    """Returns the tree that `save` wrote, every leaf bit for bit what it was.

    Leaves are JAX arrays, but NumPy arrays where JAX would narrow the dtype (float64 without
    `jax_enable_x64`). Every checksum is verified, but those of arrays spread over processes. Of
    checkpoints that orbax alone wrote, or a run's own, the tree is read too; those of orbax have
    no checksums, so that damage in them may go unseen.

    Args:
      path: what `save` was given.
      like: a tree of arrays or ShapeDtypeStructs whose paths, shapes and dtypes have to be the
        checkpoint's; the result has its containers, its boxes, and its shardings where it has any.
        What replaces the sites of a collapsible function, under `fused`, comes as it was saved,
        with the biases and factors of a fit that `abstract_compact` does not know.
        Without like the result has the dicts, lists, tuples and Nones that were saved; other
        containers come as dicts of their fields.
      sharding: one for all leaves, or a tree of them; it goes before like's.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there is no checkpoint, is unfinished or damaged, or differs from
        like, in which case the message lists the differences.
      TypeError: in a tree of shardings, something else.
      ValueError: a sharding that does not fit the shape of its leaf.
    """
    source = opened(path)
    saved = source.manifest["leaves"]
    like = with_fused(like, source.manifest)
    wanted = flatten(like)
    if like is not None:
        given = {name: describe(leaf) for name, leaf in wanted.items()}
        _check_same(source.path, _described(saved), given, "like")
    shardings = _shardings(source.path, saved, wanted, sharding)
    leaves = {
        path: jax.device_put(leaf, shardings.get(path)) if fits_jax(leaf) else leaf
        for path, leaf in load(source, saved, shardings).items()
    }
    if like is None:
        return assemble(leaves, source.manifest["containers"])
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Returns the metadata that `save` was given, as JSON gives it back; {} if there was none.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there is no checkpoint, or is unfinished or damaged.
    """
    return opened(path).manifest["metadata"]


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
            + printable_lines("\n".join(shown))
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
