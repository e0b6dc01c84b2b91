"""Checks of the arguments of public functions; messages say what to pass instead.

They inspect Python objects once a call, before anything is computed.
"""

import os
from collections.abc import Mapping
from numbers import Real
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.core import meta
from jax.core import Tracer

from lcjax._messages import describe, first_few
from lcjax.errors import CollapseError
from lcjax.tree.paths import leaf_path, slope_paths
from lcjax.validation.modules import check_no_module

_LEAVES = frozenset({"kernel", "bias", "slope", "scale"})
_OTHER_LIBRARIES = "For trees of other libraries use f = lcjax.collapsible(fn), f.init and f.trace"


def check_tree(tree: Any, name: str, *, nested: bool = True) -> None:
    """Raises TypeError unless a tree is variables or params.

    Args:
      tree: the user's argument.
      name: of the function that takes it.
      nested: whether only nested dicts are accepted.
    """
    if hasattr(tree, "params") and hasattr(tree, "opt_state"):
        raise TypeError(
            f"{name}: got {type(tree).__name__}, whose optimizer state has slopes too; expected "
            "params or variables. Pass state.params, or {'params': state.params} and the other "
            "collections of the model."
        )
    if isinstance(tree, nn.Module):
        raise TypeError(
            f"{name} takes nested dicts (params or variables), got {type(tree).__name__}, a "
            "module. Pass the result of its init: variables = model.init(key, x)."
        )
    if nested:
        check_no_module(tree, name)
    if nested and not isinstance(tree, Mapping):
        raise TypeError(
            f"{name} takes nested dicts (params or variables), got {type(tree).__name__}. Pass "
            f"the result of model.init or of training. {_OTHER_LIBRARIES}."
        )
    params = tree.get("params", tree) if isinstance(tree, Mapping) else None
    if not isinstance(params, Mapping):
        return
    for keys, leaf in jax.tree_util.tree_leaves_with_path(meta.unbox(params)):
        names = [str(getattr(key, "key", "")) for key in keys]
        if not hasattr(leaf, "shape") and not _LEAVES.isdisjoint(names):
            raise TypeError(
                f"{'/'.join(filter(None, names))}: got {type(leaf).__name__}, not an array; "
                "expected NumPy or JAX arrays. Convert lists and numbers with jnp.asarray."
            )


def check_number(name: str, value: Any, like: float = 0.05) -> None:
    """Raises TypeError unless a value is a number or a tracer."""
    if not isinstance(value, (Real, Tracer)) and getattr(value, "shape", None) != ():
        raise TypeError(f"{name} is {value!r}; expected a number. Pass one such as {like}.")


def is_count(value: Any) -> bool:
    """Returns whether a value is a whole number of at least 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def check_optimizer(tx: Any, name: str = "inner") -> None:
    """Raises TypeError unless this is an optax optimizer."""
    if hasattr(tx, "init") and hasattr(tx, "update"):
        return
    if callable(tx):
        called = getattr(tx, "__name__", "it")
        raise TypeError(
            f"{name} is {describe(tx)}, not called yet; expected an optax optimizer. Call it: "
            f"optax.{called}(learning_rate)."
        )
    raise TypeError(
        f"{name} is {describe(tx)}; expected an optax optimizer. Pass one such as optax.adam(1e-3)."
    )


def require_params(name: str, params: Any) -> None:
    """Raises ValueError if params were not passed to a transform's update."""
    if params is None:
        raise ValueError(f"{name} needs `params`: call tx.update(grads, state, params).")


def check_state(name: str, state: Any, params: Any) -> None:
    """Raises CollapseError if an optimizer state belongs to params with other slopes.

    Args:
      name: of the transform.
      state: a tree like the params that it was made for, with leaves at slopes only.
      params: the params that are trained now.
    """
    marked, known, present = _paths(state), _paths(state, optax.MaskedNode), _paths(params)
    other = (marked - present) | (slope_paths(present) - known)
    if other:
        raise CollapseError(
            f"{name}: the optimizer state is of other params than these; they differ in "
            f"{first_few(other)}. After a collapse convert it: opt_state = "
            "lcjax.carry_opt_state(tx, opt_state, old_params, new_params, report)."
        )


def _paths(tree: Any, leaf: type | tuple[type, ...] = ()) -> set[str]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, leaf))
    return {leaf_path(keys) for keys, _ in found}


def check_path(path: Any) -> None:
    """Raises TypeError unless this is a path."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(
            f"path is {describe(path)}; expected the name of a directory. The order of "
            "arguments is save(path, tree), restore(path), "
            "export(apply_fn, variables, inputs, path)."
        )


def check_activation(fn: Any, owner: str) -> None:
    """Raises TypeError unless an activation is a function."""
    if isinstance(fn, str) or not callable(fn):
        like = fn if isinstance(fn, str) and hasattr(nn, fn) else "gelu"
        raise TypeError(
            f"{owner}: activation is {fn!r}; expected an elementwise function. Pass nn.{like}."
        )


def check_slope_per(slope_per: Any, owner: str) -> None:
    """Raises ValueError unless slopes are for each site or for each unit."""
    if slope_per not in ("site", "unit"):
        raise ValueError(f"{owner}: slope_per is {slope_per!r}; expected 'site' or 'unit'.")


def check_features(features: Any, owner: str) -> None:
    """Raises TypeError unless features are a sequence of widths."""
    if isinstance(features, str) or not hasattr(features, "__len__"):
        raise TypeError(
            f"{owner}: features is {features!r}; expected the widths of the Dense layers, that "
            "of the output last. Pass a tuple such as (256, 10)."
        )
