"""Modules without values: what checkpoints are compared with, and what values are put into."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lcjax.nnx.arguments import model_and_method
from lcjax.nnx.functional import Path

Names = tuple[str, ...]


def abstract_model(model: Any) -> Any:
    """Returns a model with ShapeDtypeStructs for arrays and tracers.

    Args:
      model: as for `lcjax.nnx.trace`.
    """
    module, method = model_and_method(model)
    graph, state = nnx.split(module)
    merged = nnx.merge(graph, jax.tree.map(_shape, state))
    return partial(method, merged)


def variables_of(module: nnx.Module) -> dict[Names, tuple[Path, nnx.Variable]]:
    """Returns the Variables of a module, with their paths, by their paths in strings."""
    flat = nnx.to_flat_state(nnx.state(module))
    found = ((path, leaf) for path, leaf in flat if isinstance(leaf, nnx.Variable))
    return {tuple(map(str, path)): (path, leaf) for path, leaf in found}


def stored_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of an array as orbax stores it: random keys as their data."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def put_values(module: nnx.Module, values: Mapping[Names, Any]) -> None:
    """Writes values into the Variables of a module, in place.

    Args:
      module: the module.
      values: arrays as orbax stores them, by the paths of the Variables in strings.
    """
    found = variables_of(module)
    for names, value in values.items():
        _, variable = found[names]
        old = variable.get_value()
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            value = jax.random.wrap_key_data(value, impl=_impl(old))
        variable.set_value(value)


def _impl(keys: Any) -> Any:
    """Returns the implementation of random keys, which may be a ShapeDtypeStruct."""
    found = []

    def note(keys: Any) -> None:
        found.append(jax.random.key_impl(keys))

    jax.eval_shape(note, keys)
    return found[0]


def _shape(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct((), np.asarray(leaf).dtype) if np.isscalar(leaf) else leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
