"""The leaves of a network as a folder stores them: where each one is, and reading it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.folder.fitting.forms import KEY
from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.folder.storage.tensor_files import DTYPES
from lcjax.interop.layouts import Layout
from lcjax.interop.matching import Assignment, assign_tensors
from lcjax.interop.name_map import NameMap
from lcjax.io.containers import assemble
from lcjax.io.leaves import LeafPath, flatten

_EXAMPLE = jax.ShapeDtypeStruct((1, 2), jnp.int32)
_SHOWN = 6


class FolderLeaves:
    """The leaves of a network in the tensors of a folder.

    Attributes:
      folder: that has them.
    """

    def __init__(self, folder: ModelFolder, names: NameMap, model: nn.Module):
        """Finds the tensor of every leaf; those of MLPs in other forms need not be there.

        Args:
          folder: of the weights.
          names: the names of its tensors.
          model: as its config describes it.

        Raises:
          WeightsError: two tensors of one leaf; else lists tensors that are missing, of other
            shapes, or of layers that the config does not describe.
        """
        self.folder = folder
        stored = _by_plain_name(folder, names)
        expected = flatten(jax.eval_shape(model.init, jax.random.key(0), _EXAMPLE))
        at = assign_tensors(names, model, expected)
        shapes = {leaf: tuple(each.shape) for leaf, each in expected.items()}
        self._found: dict[LeafPath, tuple[str, Layout, tuple[int, ...]]] = {}
        self._slopes = {leaf[1:]: shapes[leaf] for leaf in shapes.keys() - at.keys()}
        problems, mixed = [], KEY in folder.config
        prefix = _prefix_of_layers(at, stored)
        for leaf, (name, layout) in at.items():
            path, shape = leaf[1:], shapes[leaf]
            if mixed and "mlp" in path:
                self._found[path] = (stored.get(name, prefix + name), layout, shape)
                continue
            if name not in stored:
                problems.append(f"{name} is missing")
                continue
            actual, needed = folder.tensors.places[stored[name]].shape, layout.stored(shape)
            if actual != needed:
                problems.append(f"{name} has shape {actual}, by config.json it has {needed}")
            self._found[path] = (stored[name], layout, shape)
        tied = names.tied(model).items()
        self._copies = {stored[a]: stored[b] for a, b in tied if stored.keys() >= {a, b}}
        used, stem = {name for name, _, _ in self._found.values()}, self._stem()
        problems += [
            f"{name} is unexpected"
            for plain, name in stored.items()
            if not mixed and stem and name.startswith(stem) and name not in used
            if not names.is_buffer(plain)
        ]
        if problems:
            shown = printable("; ".join(sorted(problems)[:_SHOWN]), longest=900)
            more = len(problems) - _SHOWN
            raise WeightsError(
                f"{folder.path}: the weights are not those that config.json describes: {shown}"
                f"{f' and {more} more' if more > 0 else ''}. Take both from the same model."
            )

    def names(self, paths: Iterable[LeafPath]) -> set[str]:
        """Returns the names of the tensors that have some leaves, copies of them included."""
        found = {self._found[path][0] for path in paths}
        return found | {copy for copy, original in self._copies.items() if original in found}

    @property
    def shapes(self) -> dict[LeafPath, tuple[int, ...]]:
        """Shapes of the leaves that are not slopes, by path; of MLPs as they are when deep."""
        return {path: shape for path, (_, _, shape) in self._found.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the network's modules."""
        return tuple(dict.fromkeys(str(path[0]) for path in self._found))

    def name(self, *path: str) -> str:
        """Returns the name of a leaf's tensor."""
        return self._found[path][0]

    def has(self, *path: str) -> bool:
        """Returns whether there is such a leaf."""
        return path in self._found

    def read(self, *path: str) -> np.ndarray:
        """Returns a leaf, float32."""
        name, layout, shape = self._found[path]
        tensor = self.folder.tensors.read(name)
        return np.asarray(layout.read(tensor.astype(np.float32), shape), np.float32)

    def rows(self, path: Sequence[str], indices: np.ndarray) -> np.ndarray:
        """Returns some rows of a leaf that is stored in the same layout, float32."""
        return self.folder.tensors.rows(self._found[tuple(path)][0], indices).astype(np.float32)

    def tree(self, start: str) -> Any:
        """Returns the leaves of a module as a tree of float32 arrays on the device; slopes are 0.

        Args:
          start: name of the module.
        """
        leaves: dict[LeafPath, jax.Array] = {}
        for path in (*self._found, *self._slopes):
            if path[0] == start:  # one tensor at a time is on the host
                slope = self._slopes.get(path)
                if slope is None and not self._is_deep(path):
                    continue
                value = self.read(*map(str, path)) if slope is None else np.zeros(slope, np.float32)
                leaves[path[1:]] = jnp.asarray(value)
        return assemble(leaves)

    def tensors(self, leaves: Mapping[LeafPath, Any]) -> dict[str, np.ndarray]:
        """Returns the tensors that have some leaves, in the folder's dtypes; the inverse of `read`.

        Values beyond the range of a dtype become infinite.

        Args:
          leaves: by path, in the shapes of `shapes`; all that share a tensor, or none.
        """
        found: dict[str, np.ndarray] = {}
        for path, leaf in leaves.items():
            name, layout, shape = self._found[path]
            if name not in found:
                place = self.folder.tensors.places[name]
                found[name] = np.empty(place.shape, DTYPES[place.dtype])
            with np.errstate(over="ignore"):
                layout.read(found[name], shape)[...] = leaf  # a view of the tensor
        for copy, original in self._copies.items():
            if original in found:
                found[copy] = found[original]
        return found

    def _is_deep(self, path: LeafPath) -> bool:
        """Returns whether a leaf is not one of an MLP in another form."""
        name, layout, shape = self._found[path]
        place = self.folder.tensors.places.get(name)
        return place is not None and place.shape == layout.stored(shape)

    def _stem(self) -> str:
        """Returns what the names of all tensors of layers start with: `model.layers.`."""
        names = [name for path, (name, _, _) in self._found.items() if path[0] == "block_0"]
        layer = os.path.commonprefix(names).rpartition(".")[0]
        return layer.rpartition(".")[0] + "." if layer else ""


def _by_plain_name(folder: ModelFolder, names: NameMap) -> dict[str, str]:
    """Returns the names of tensors by their plain names."""
    found: dict[str, str] = {}
    for name in folder.tensors.places:
        other = found.setdefault(names.plain(name), name)
        if other != name and not names.is_buffer(names.plain(name)):
            raise WeightsError(
                f"{folder.path}: {printable(other)} and {printable(name)} are the same tensor; "
                "remove one of them."
            )
    return found


def _prefix_of_layers(at: Assignment, stored: Mapping[str, str]) -> str:
    """Returns what precedes the plain names of the tensors of layers: `model.`."""
    for leaf, (plain, _) in at.items():
        name = stored.get(plain, "")
        if leaf[1] == "block_0" and name.endswith(plain):  # others have an older spelling
            return name.removesuffix(plain)
    return ""
