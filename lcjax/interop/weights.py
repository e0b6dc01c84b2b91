"""The weights of a model in another library's open files, read leaf by leaf or part by part."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.errors import WeightsError
from lcjax.interop.layouts import Layout
from lcjax.interop.matching import (
    Assignment,
    assign_tensors,
    check_not_quantized,
    config_differences,
    difference_error,
    mismatches,
    path_in_collection,
    plain_names,
    tied_differences,
)
from lcjax.interop.name_map import NameMap
from lcjax.interop.registry import check_model, name_map_of
from lcjax.interop.safetensors_file import Tensors, open_tensors
from lcjax.interop.source import Source, find_files, read_config, resolve_source
from lcjax.io.containers import assemble
from lcjax.io.leaves import LeafPath, flatten


@dataclass(frozen=True)
class Weights:
    """Tensors that match the leaves of a model one to one; see `open_weights`.

    Attributes:
      model: the model.
      tensors: the open files.
      names: the name map of the library that wrote them.
      inputs: abstract inputs of the model.
      expected: all leaves of the model, abstract, slopes included.
      new: the leaves that the files do not fill, as they are initialised instead.
      by_name: name in the file by plain name, the name of the rules.
      at: plain name and layout of each leaf that the files fill.
    """

    model: nn.Module
    tensors: Tensors
    names: NameMap
    inputs: jax.ShapeDtypeStruct
    expected: Mapping[LeafPath, jax.ShapeDtypeStruct]
    new: Sequence[LeafPath]
    by_name: Mapping[str, str]
    at: Assignment

    def stored_as(self, leaf: LeafPath) -> tuple[str, Layout]:
        """Returns the name in the file, and the layout, of a leaf that is not a slope.

        The leaf may have another shape than the model's: `layout.write(leaf)` is its tensor.
        """
        name, layout = self.at[leaf]
        return self.by_name[name], layout

    def read(self, leaf: LeafPath) -> jax.Array:
        """Returns a leaf in the model's shape and dtype.

        Raises:
          WeightsError: numbers beyond the range of the dtype, or a damaged file.
        """
        shape = self.expected[leaf]
        if leaf not in self.at:
            return jnp.zeros(shape.shape, shape.dtype)  # a slope
        name, layout = self.stored_as(leaf)
        value = layout.read(self.tensors.read(name), shape.shape)
        return jnp.asarray(_cast(value, shape, f"{self.tensors.where}: {name}"))

    def part(self, path: str) -> dict[str, Any]:
        """Returns the params of one module, such as `block_3`, read one tensor at a time.

        Raises:
          ValueError: a path without leaves.
          WeightsError: as of `read`.
        """
        above = ("params", *path.split("/"))
        leaves = [leaf for leaf in self.expected if leaf[: len(above)] == above]
        if not leaves:
            raise ValueError(f"{path}: expected a module of the {type(self.model).__name__}.")
        return assemble({leaf[len(above) :]: self.read(leaf) for leaf in leaves})


@contextmanager
def open_weights(source: Source, model: nn.Module) -> Iterator[Weights]:
    """Opens another library's files for a model, with the checks of `load_safetensors`.

    Only the headers are read, and tied tensors that are in the files twice. Other tensors are read
    when they are asked for:

      with open_weights(folder, model) as weights:
          block = weights.part("block_3")

    Args:
      source: as of `load_safetensors`.
      model: a Decoder whose layers are not scanned, or another model with a name map.

    Raises:
      FileNotFoundError: source does not exist.
      WeightsError: files that differ from the model; lists all differences.
      TypeError: an unsupported model.
      ImportError: safetensors is missing: `pip install 'lcjax[interop]'`.
    """
    path = resolve_source(source)
    with open_tensors(find_files(path)) as tensors:
        yield match_weights(tensors, model, read_config(path))


def match_weights(
    tensors: Tensors,
    model: nn.Module,
    config: Mapping[str, Any] | None = None,
    *,
    init: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Weights:
    """Returns the weights of a model in open files, after a check of everything but the values.

    Args:
      tensors: the open files.
      model: the model.
      config: contents of config.json; None where there is none.
      init: globs of leaves that the files do not fill.
      ignore: globs of tensors to leave out.

    Raises:
      WeightsError: files that differ from the model; lists all differences.
      ValueError: a glob that matches nothing.
      TypeError: an unsupported model.
    """
    check_model(model)
    check_not_quantized(tensors)
    names = name_map_of(tensors, model, config)
    by_name = plain_names(tensors, names, model, ignore)
    inputs = names.inputs(model, {n: tensors.stored[full] for n, full in by_name.items()})
    expected = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
    new = _matching(expected, init)
    old = {leaf: shape for leaf, shape in expected.items() if leaf not in new}
    at = assign_tensors(names, model, old)
    tied = names.tied(model)
    left_out = [
        rule.name_for(path_in_collection(leaf)) for rule in names.rules(model) for leaf in new
    ]
    lines = config_differences(names, config, model) if config else []
    lines += tied_differences(tensors, tied, by_name)
    lines += mismatches(tensors, by_name, old, at, [name for name in (*left_out, *tied) if name])
    if lines:
        raise difference_error(tensors.where, names.library, model, lines)
    return Weights(model, tensors, names, inputs, expected, new, by_name, at)


def _matching(expected: Mapping[LeafPath, Any], globs: Sequence[str]) -> list[LeafPath]:
    """Returns the leaves that match one of the globs."""
    paths = {leaf: path_in_collection(leaf) for leaf in expected}
    for glob in globs:
        if not any(fnmatchcase(path, glob) for path in paths.values()):
            raise ValueError(
                f"init: got {glob!r}, which matches no leaf of the model; expected a glob of paths "
                "such as head/kernel."
            )
    return [leaf for leaf, path in paths.items() if any(fnmatchcase(path, g) for g in globs)]


def _cast(value: np.ndarray, shape: Any, where: str) -> np.ndarray:
    """Returns a tensor in the leaf's dtype, after a check of the range of its numbers."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(value, shape.dtype).reshape(shape.shape)
    if value.dtype.itemsize > cast.dtype.itemsize:
        lost = np.isfinite(value).sum() - np.isfinite(cast).sum()
        if lost:
            raise WeightsError(
                f"{where}: got {lost:,} numbers of {value.dtype} beyond the range of {cast.dtype}, "
                f"expected at most {np.finfo(cast.dtype).max:.3g}; scale them, or download the "
                "file again."
            )
    return cast
