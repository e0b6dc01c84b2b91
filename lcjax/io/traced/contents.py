"""The params in a checkpoint: all of it, or what is under a path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lcjax._messages import first_few
from lcjax.errors import CheckpointError
from lcjax.io.containers import assemble
from lcjax.io.leaves import LeafPath, flatten, joined
from lcjax.io.reader import OpenCheckpoint, read_leaves
from lcjax.tree.paths import slope_paths

_VARIABLE = "value"  # of an NNX variable, as orbax stores it


@dataclass(frozen=True, eq=False)
class Contents:
    """A checkpoint and where params are in it.

    Attributes:
      checkpoint: the checkpoint.
      root: the path of the params in it; () for all of it.
    """

    checkpoint: OpenCheckpoint
    root: LeafPath

    @property
    def records(self) -> dict[LeafPath, Mapping[str, Any]]:
        """The manifest's records of the leaves of the params, by path below the root."""
        start = len(self.root)
        leaves = self.checkpoint.manifest["leaves"]
        return {path[start:]: leaves[path] for path in leaves if path[:start] == self.root}

    @property
    def others(self) -> list[str]:
        """Paths of the checkpoint's other leaves."""
        leaves = self.checkpoint.manifest["leaves"]
        return [joined(path) for path in leaves if path[: len(self.root)] != self.root]

    @property
    def kinds(self) -> dict[LeafPath, str]:
        """The containers below the root."""
        start, kinds = len(self.root), self.checkpoint.manifest["containers"]
        return {path[start:]: kinds[path] for path in kinds if path[:start] == self.root}

    def tree(self) -> Any:
        """Returns the params, with the values of slopes and the shapes of all other leaves."""
        leaves: dict[LeafPath, Any] = {path: shape(one) for path, one in self.records.items()}
        named = slope_paths(map(joined, leaves))
        slopes = {path: path for path in leaves if joined(path) in named}
        return assemble(leaves | self.read(slopes), self.kinds)

    def variables(self) -> dict[LeafPath, LeafPath]:
        """Returns the path below the root of every leaf, by its path without NNX variables.

        Where orbax has saved a variable of Flax NNX as `{"value": ...}`, the path is that of the
        variable.
        """
        inside: dict[LeafPath, int] = {}
        for path in self.records:
            inside[path[:-1]] = inside.get(path[:-1], 0) + 1
        return {
            p[:-1] if p[-1] == _VARIABLE and inside[p[:-1]] == 1 else p: p for p in self.records
        }

    def read(self, paths: Mapping[Any, LeafPath]) -> dict[Any, Any]:
        """Returns the values of leaves, by other names that they are given.

        Args:
          paths: paths below the root, by name.
        """
        known = self.checkpoint.manifest["leaves"]
        whole = {(*self.root, *path): known[(*self.root, *path)] for path in paths.values()}
        values = read_leaves(self.checkpoint, whole, {}, partial=True)
        return {name: values[(*self.root, *path)] for name, path in paths.items()}


def contents_of(checkpoint: OpenCheckpoint, under: str = "") -> Contents:
    """Returns the params under a path of a checkpoint, `params` or `state/model`.

    Raises:
      CheckpointError: nothing is under the path; names what is there.
    """
    names = tuple(name for name in under.split("/") if name)
    known = {path[: len(names)] for path in checkpoint.manifest["leaves"]}
    found = [path for path in known if tuple(map(str, path)) == names]
    if found:
        return Contents(checkpoint, found[0])
    tops = {joined(path[:1]) for path in checkpoint.manifest["leaves"]}
    raise CheckpointError(
        f"{checkpoint.path}: got no leaf under {under!r}, expected the path of the params; at the "
        f"top there are {first_few(tops)}."
    )


def shape(record: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Returns a leaf's record as shape and dtype."""
    return jax.ShapeDtypeStruct(record["shape"], np.dtype(record["dtype"]))


def paths_of(tree: Any) -> dict[LeafPath, LeafPath]:
    """Returns the paths of a tree's leaves, each by itself."""
    return {path: path for path in flatten(tree)}
