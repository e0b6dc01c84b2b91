"""The forms of a model as shapes, and random weights of these shapes made on the device."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

import lcjax
from lcjax.tree.paths import is_slope, leaves_by_path

FORMS = ("deep", "linear", "half the units")


def form_shapes(deep: Any, form: str) -> Any:
    """Returns the variables of a form as ShapeDtypeStructs.

    Args:
      deep: the variables of the deep form, likewise.
      form: "deep"; "linear", one matrix a site; or "half the units", as `lcjax.Units` writes them.
    """
    if form == "deep":
        return deep
    if form == "linear":
        return lcjax.abstract_collapse(deep, "*")[0]
    return _half_the_units(deep)


def random_weights(shapes: Any) -> Any:
    """Returns random weights of these shapes and dtypes, slopes of 0; for use under `jax.jit`.

    All are parts of one array of random numbers: a program that draws each would compile for long.
    """
    most = max(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    pool = 0.02 * jax.random.normal(jax.random.key(0, impl="rbg"), (most,))

    def weight(keys: Any, leaf: Any) -> jax.Array:
        if is_slope(keys):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return pool[: math.prod(leaf.shape)].reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(weight, shapes)


def in_bfloat16(shapes: Any) -> Any:
    """Returns the shapes of weights for inference: bfloat16, slopes as they are."""

    def narrow(keys: Any, leaf: Any) -> Any:
        return leaf if is_slope(keys) else jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(narrow, shapes)


def _half_the_units(deep: Any) -> Any:
    flat = leaves_by_path(deep)
    for site in lcjax.find_sites(deep).paths:
        owner, _, activation = site.rpartition("/")
        before, last, bypass = _names(activation)
        for name in before:
            for leaf in ("kernel", "bias"):
                path = f"params/{owner}/{name}/{leaf}"
                if path in flat:
                    flat[path] = _halved(flat[path], -1)
        kernel = _halved(flat[f"params/{owner}/{last}/kernel"], -2)
        flat[f"params/{owner}/{last}/kernel"] = kernel
        flat.pop(f"params/{owner}/{last}/bias", None)
        bias = jax.ShapeDtypeStruct(kernel.shape[-1:], kernel.dtype)
        flat[f"params/{owner}/{bypass}/bias"] = bias
    return unflatten_dict({tuple(path.split("/")): leaf for path, leaf in flat.items()})


def _names(activation: str) -> tuple[tuple[str, ...], str, str]:
    """Returns the Dense layers before an activation, the one after it, and the bypass."""
    if activation == "act":  # of a CollapsibleGLU
        return ("gate", "up"), "down", "bypass"
    return ("dense_0",), "dense_1", "bypass_0"


def _halved(leaf: Any, axis: int) -> jax.ShapeDtypeStruct:
    shape = list(leaf.shape)
    shape[axis] //= 2
    return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)
