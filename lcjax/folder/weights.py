"""The params of a folder's network, in the forms of its layers: read, and made tensors again."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.families import family_of
from lcjax.folder.fitting.forms import forms_from_config
from lcjax.folder.fitting.mlp_tensors import MLPTensors
from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.folder.storage.tensor_files import DTYPES
from lcjax.io.leaves import LeafPath, flatten


class FolderWeights:
    """The params of a folder's network by module, such as `block_3`.

    Attributes:
      family: of the model.
    """

    def __init__(self, folder: ModelFolder):
        """Finds the tensors of the leaves.

        Raises:
          WeightsError: as of `load_model`.
        """
        self.family, self._folder = family_of(folder), folder
        forms = forms_from_config(folder.config, self.family.depth, self.family.hidden)
        self._mlps = {
            f"block_{layer}": (MLPTensors(self.family, layer), form)
            for layer, form in enumerate(forms)
            if form.kind != "deep"
        }

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the network's modules."""
        return self.family.leaves.modules

    @property
    def shapes(self) -> dict[LeafPath, tuple[int, ...]]:
        """Shapes of the leaves that are not slopes, by path."""
        deep = self.family.leaves.shapes
        found = {path: shape for path, shape in deep.items() if not self._new(path)}
        for module, (tensors, form) in self._mlps.items():
            own = tensors.leaf_shapes(form)
            found |= {(module, "mlp", *leaf): shape for leaf, shape in own.items()}
        return found

    @property
    def names(self) -> set[str]:
        """Names of the tensors that have the leaves."""
        leaves = self.family.leaves
        found = leaves.names(path for path in leaves.shapes if not self._new(path))
        for tensors, form in self._mlps.values():
            own = tensors.shapes(form, bias=True)
            found |= {name for name, shape in own.items() if shape is not None}
        return found

    def params(self, module: str) -> dict[str, Any]:
        """Returns the params of a module as float32 arrays on the device; slopes are 0.

        Raises:
          WeightsError: tensors of a form that are missing or of other shapes.
        """
        params = self.family.leaves.tree(module)
        if module in self._mlps:
            tensors, form = self._mlps[module]
            params["mlp"] = jax.tree.map(jnp.asarray, tensors.params(form))
        return params

    def tensors(self, module: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the tensors of a module in the folder's dtypes; the inverse of `params`.

        Values beyond the range of a dtype become infinite.

        Args:
          module: its name.
          params: of the module, in the shapes of `shapes`; slopes have no tensor.
        """
        every = {(module, *path): leaf for path, leaf in flatten(params).items()}
        leaves = {path: leaf for path, leaf in every.items() if path[-1] != "slope"}
        deep = {path: leaf for path, leaf in leaves.items() if not self._new(path)}
        found = self.family.leaves.tensors(deep)
        if module in self._mlps:
            mlp = jax.tree.map(np.asarray, params["mlp"])
            for name, tensor in self._mlps[module][0].tensors(mlp, bias=True).items():
                with np.errstate(over="ignore"):
                    found[name] = tensor.astype(DTYPES[self._folder.tensors.places[name].dtype])
        return found

    def _new(self, path: LeafPath) -> bool:
        """Returns whether a leaf is of an MLP in a form that is not the deep one."""
        return path[0] in self._mlps and path[1:2] == ("mlp",)
