"""Weights into a model: every tensor of a file used, every leaf of the model filled."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from lcjax.errors import CollapseError
from lcjax.interop.errors import WeightsError
from lcjax.interop.match import (
    Places,
    below,
    config_differences,
    difference_error,
    mismatches,
    places,
    plain_names,
    untied,
)
from lcjax.interop.native import differences, is_own, read_own
from lcjax.interop.registry import check_model, inputs_of, table_of
from lcjax.interop.safetensors_file import Tensors, open_tensors
from lcjax.interop.source import Source, find_files, find_source, read_config
from lcjax.io.leaves import LeafPath, flatten, nest

Globs = str | Sequence[str]


def load_safetensors(
    source: Source,
    model: nn.Module | None = None,
    *,
    fresh: Globs = (),
    skip: Globs = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns variables of a model with the weights that another library saved; slopes are 0.

    Every tensor is used, and every leaf filled, or nothing is loaded: one error lists what is
    missing, unexpected or of another shape. Files are mapped into memory and read tensor by
    tensor; float16, bfloat16 and float64 are cast to the model's float32.

    What `save_safetensors` wrote, deep or compact, comes back bit for bit; a model is not needed
    for it, and is held against it where it is given.

    Args:
      source: a safetensors file; a folder with one, or with an index of several, whose config.json
        is then held against the model; an installed Python package that ships such a folder; or
        the id of a Hugging Face repository.
      model: a Bert, GPT2, MLPMixer, VGG or ViT; None will do for what `save_safetensors` wrote.
      fresh: globs of leaves, `head/*`, that are initialised and not loaded, in the file or not: a
        head for other classes.
      skip: globs of tensors of the file, `cls.*`, that are left out.
      key: random key for the fresh leaves.

    Raises:
      FileNotFoundError: when there is no such source.
      WeightsError: when a file is damaged, its tensors or config are not the model's, or numbers
        are too large for the model's dtype.
      ValueError: a glob that matches nothing; fresh leaves without a key.
      TypeError: another model; no model, and a file of another library.
      ImportError: when the package safetensors is not installed.
    """
    path = find_source(source)
    with open_tensors(find_files(path)) as tensors:
        if is_own(tensors):
            if fresh or skip:
                raise ValueError("fresh and skip are for files of other libraries than lcjax.")
            return _held(tensors, model)
        if model is None:
            raise TypeError(f"{tensors.where}: save_safetensors did not write it; give the model.")
        check_model(model)
        names = table_of(tensors, model)
        by_name = plain_names(tensors, names, _globs(skip))
        inputs = names.inputs(model, {n: tensors.stored[full] for n, full in by_name.items()})
        wanted = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
        new = _chosen(wanted, _globs(fresh), key)
        old = {leaf: shape for leaf, shape in wanted.items() if leaf not in new}
        at = places(names, model, old)
        config = read_config(path)
        left_out = [rule.name_for(below(leaf)) for rule in names.rules(model) for leaf in new]
        lines = config_differences(names, config, model) if config else []
        lines += untied(tensors, names, by_name)
        lines += mismatches(tensors, names, by_name, old, at, [n for n in left_out if n])
        if lines:
            raise difference_error(tensors.where, names.library, model, lines)
        leaves = {leaf: _read(tensors, by_name, at, leaf, shape) for leaf, shape in old.items()}
    leaves |= _initialised(model, inputs, new, key)
    return nest({leaf: leaves[leaf] for leaf in wanted})


def _held(tensors: Tensors, model: nn.Module | None) -> dict[str, Any]:
    """Returns what lcjax wrote, once sure that the model, if there is one, runs it."""
    variables = read_own(tensors)
    if model is not None:
        check_model(model)
        inputs = inputs_of(model, tensors.stored)
        deep = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
        lines = differences(flatten(variables), deep)
        if lines:
            raise difference_error(tensors.where, "lcjax", model, lines)
        try:
            jax.eval_shape(model.apply, variables, inputs)
        except (CollapseError, FlaxError) as error:
            raise WeightsError(f"{tensors.where}: the model cannot run it: {error}") from error
    return variables


def _globs(globs: Globs) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


def _chosen(
    wanted: Mapping[LeafPath, Any], fresh: Sequence[str], key: jax.Array | None
) -> list[LeafPath]:
    """Returns the leaves that globs choose."""
    for glob in fresh:
        if not any(fnmatchcase(below(leaf), glob) for leaf in wanted):
            raise ValueError(f"fresh={glob!r} matches no leaf of the model, such as head/kernel.")
    if fresh and key is None:
        raise ValueError(f"fresh={fresh!r} initialises leaves: give the random key, key=.")
    return [leaf for leaf in wanted if any(fnmatchcase(below(leaf), glob) for glob in fresh)]


def _read(
    tensors: Tensors, by_name: Mapping[str, str], at: Places, leaf: LeafPath, shape: Any
) -> jax.Array:
    if leaf not in at:
        return jnp.zeros(shape.shape, shape.dtype)  # a slope
    name, layout = at[leaf]
    value = layout.read(tensors.read(by_name[name]), shape.shape)
    return jnp.asarray(_cast(value, shape, f"{tensors.where}: {by_name[name]}"))


def _cast(value: np.ndarray, shape: Any, where: str) -> np.ndarray:
    """Returns a tensor in the leaf's dtype, once sure that its numbers fit into it."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(value, shape.dtype).reshape(shape.shape)
    if value.dtype.itemsize > cast.dtype.itemsize:
        lost = np.isfinite(value).sum() - np.isfinite(cast).sum()
        if lost:
            raise WeightsError(
                f"{where} has {lost:,} numbers of {value.dtype} that {cast.dtype} cannot hold; "
                f"expected at most {np.finfo(cast.dtype).max:.3g}. Scale them, or fetch the file "
                "again."
            )
    return cast


def _initialised(
    model: nn.Module, inputs: Any, new: Sequence[LeafPath], key: jax.Array | None
) -> dict[LeafPath, jax.Array]:
    """Returns the new leaves as `init` makes them; the rest is not even computed."""
    if key is None or not new:
        return {}

    def init(key: jax.Array) -> list[jax.Array]:
        leaves = flatten(model.init(key, jnp.zeros(inputs.shape, inputs.dtype)))
        return [leaves[leaf] for leaf in new]

    return dict(zip(new, jax.jit(init)(key), strict=True))
