"""The tensors of an MLP in a folder: their names and shapes in a form, and their values."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lcjax.errors import CollapseError, WeightsError
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form
from lcjax.folder.fitting.solve import MLP
from lcjax.folder.storage.tensor_files import DTYPES

Key = tuple[str, str]  # module and leaf in params of an MLP


class MLPTensors:
    """The tensors of the MLP of one layer.

    A linear map is the last layer alone; a constant is its bias alone; a linear map next to units
    has the last layer's name with `bypass` in the place of its last part. A tensor may concatenate
    the first layers along its first axis.

    Attributes:
      names: of the tensors in any form, by module and leaf.
    """

    def __init__(self, family: Family, layer: int):
        """Takes the names from the folder of a family."""
        self._family, self._block = family, f"block_{layer}"
        weight = family.leaves.name(self._block, "mlp", family.last, "kernel")
        module = weight.removesuffix(".weight")
        self.names: dict[Key, str] = {(family.last, "kernel"): weight}
        self.names[family.last, "bias"] = f"{module}.bias"
        self.names[family.bypass, "kernel"] = f"{module.rpartition('.')[0]}.bypass.weight"
        for name in family.first:
            for leaf in ("kernel", "bias"):
                if family.leaves.has(self._block, "mlp", name, leaf):
                    self.names[name, leaf] = family.leaves.name(self._block, "mlp", name, leaf)

    def shapes(self, form: Form, *, bias: bool) -> dict[str, tuple[int, ...] | None]:
        """Returns the shapes of the tensors that a form changes; None for those that it lacks.

        Args:
          form: of the MLP.
          bias: whether the output of units gets a bias that the deep MLP may lack.
        """
        family = self._family
        if form.kind == "deep":
            return {}
        width, found = family.width, {}
        for (module, leaf), name in self.names.items():
            if module in family.first:
                rows = form.width * len(self._sharing(name))
                shape = (rows, width) if leaf == "kernel" else (rows,)
                found[name] = shape if form.kind == "units" else None
        last = {"units": (width, form.width), "linear": (width, width), "constant": None}[form.kind]
        found[self.names[family.last, "kernel"]] = last
        own = family.leaves.has(self._block, "mlp", family.last, "bias")
        if own or bias:
            found[self.names[family.last, "bias"]] = (width,)
        if form.linear:
            found[self.names[family.bypass, "kernel"]] = (width, width)
        return found

    def like(self, shapes: Mapping[str, Any]) -> dict[str, str]:
        """Returns, for names of tensors that the source lacks, the tensor next to which they go."""
        places = self._family.leaves.folder.tensors.places
        weight = self.names[self._family.last, "kernel"]
        return {name: weight for name in shapes if name not in places}

    def stored(self, mlp: MLP, *, bias: bool) -> tuple[dict[str, np.ndarray], MLP]:
        """Returns the tensors of a new MLP, and its params rounded as the deep folder stores them.

        Args:
          mlp: params in a form, float32.
          bias: whether the output has a bias.

        Raises:
          CollapseError: values beyond the range of the dtype.
        """
        weight = self.names[self._family.last, "kernel"]
        dtype = DTYPES[self._family.leaves.folder.tensors.places[weight].dtype]
        with np.errstate(over="ignore"):
            rounded = jax.tree.map(
                lambda array: np.asarray(array).astype(dtype).astype(np.float32), mlp
            )
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(rounded)):
            raise CollapseError(
                f"{weight}: the fit leaves the range of {dtype}, the dtype of this folder. Cast "
                "its weights to bfloat16 or float32, and collapse that."
            )
        return self.tensors(rounded, bias=bias), rounded

    def tensors(self, mlp: MLP, *, bias: bool) -> dict[str, np.ndarray]:
        """Returns the tensors of an MLP in a form; the inverse of `params`.

        Args:
          mlp: its params.
          bias: whether the output has a bias.
        """
        parts: dict[str, dict[Key, np.ndarray]] = {}
        for module, leaf, array in _leaves(mlp):
            if module == self._family.act:
                continue
            key = (
                (self._family.last, "bias")
                if (module, leaf) == (self._family.bypass, "bias")
                else (module, leaf)
            )
            if key == (self._family.last, "bias") and not bias:
                continue
            own = parts.setdefault(self.names[key], {})
            own[key] = array.T if leaf == "kernel" else array
        tensors = {}
        for name, own in parts.items():
            first, *others = (own[key] for key in self._sharing(name))
            tensors[name] = np.concatenate([first, *others]) if others else first
        return tensors

    def params(self, form: Form) -> MLP:
        """Returns the params of an MLP of a form from its tensors, float32.

        Args:
          form: of the MLP; not "deep".

        Raises:
          WeightsError: a tensor that is missing or of another shape.
        """
        tensors, mlp = self._family.leaves.folder.tensors, {}
        for (module, leaf), (key, name, _) in self._stored_as(form).items():
            sharing = self._sharing(name)
            whole = tensors.read(name).astype(np.float32)
            tensor = np.split(whole, len(sharing))[sharing.index(key)]
            tensor = np.ascontiguousarray(tensor.T) if leaf == "kernel" else tensor
            mlp.setdefault(module, {})[leaf] = tensor
        if form.kind == "units":
            mlp[self._family.act] = {"slope": np.zeros((), np.float32)}
        return mlp

    def leaf_shapes(self, form: Form) -> dict[Key, tuple[int, ...]]:
        """Returns the shapes of the leaves of `params` that are not slopes.

        Raises:
          WeightsError: as of `params`.
        """
        found = {}
        for leaf, (_, name, (rows, *width)) in self._stored_as(form).items():
            found[leaf] = (*width, rows // len(self._sharing(name)))
        return found

    def _stored_as(self, form: Form) -> dict[Key, tuple[Key, str, tuple[int, ...]]]:
        """Returns, for each leaf of a form, its key in `names`, its tensor and the tensor's shape.

        Raises:
          WeightsError: a tensor that is missing or of another shape.
        """
        folder, shapes, found = self._family.leaves.folder, self.shapes(form, bias=True), {}
        for key, name in self.names.items():
            if (shape := shapes.get(name)) is None:
                continue
            place = folder.tensors.places.get(name)
            if place is None or place.shape != shape:
                raise WeightsError(
                    f"{folder.path}: {name}: got {'none' if place is None else place.shape}, by "
                    f"config.json it has shape {shape}. Make the folder again."
                )
            own = key == (self._family.last, "bias") and form.kind != "linear"
            found[(self._family.bypass, "bias") if own else key] = (key, name, shape)
        return found

    def _sharing(self, name: str) -> list[Key]:
        """Returns the leaves that a tensor has, in the order in which it concatenates them."""
        return [key for key, other in self.names.items() if other == name]


def _leaves(mlp: MLP) -> Iterator[tuple[str, str, np.ndarray]]:
    for module, leaves in mlp.items():
        for leaf, array in leaves.items():
            yield module, leaf, array


class Stored(NamedTuple):
    """Which tensors of a folder change, for all layers.

    Attributes:
      shapes: by name; None for those that are left out.
      like: the tensor next to which a new one goes.
    """

    shapes: dict[str, tuple[int, ...] | None]
    like: dict[str, str]


def changed_tensors(family: Family, forms: list[Form], *, bias: bool) -> Stored:
    """Returns the tensors of a folder that forms of its layers change."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    like: dict[str, str] = {}
    for layer, form in enumerate(forms):
        tensors = MLPTensors(family, layer)
        own = tensors.shapes(form, bias=bias)
        shapes |= own
        like |= tensors.like(own)
    return Stored(shapes, like)
