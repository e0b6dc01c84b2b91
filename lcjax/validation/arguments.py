"""Checks of what users pass to the public functions: what came, what is expected, what to do.

They look at Python objects once a call, before anything is computed.
"""

import inspect
import os
from collections.abc import Mapping
from numbers import Real
from typing import Any

import flax.linen as nn
import jax
import optax
from flax.core import meta
from jax.core import Tracer

from lcjax.errors import CollapseError
from lcjax.tree.paths import leaf_path, slope_paths

_LEAVES = frozenset({"kernel", "bias", "slope", "scale"})
_OTHER_LIBRARIES = (
    "For Flax NNX, Equinox and other trees use lcjax.collapsible(fn), whose own init, sites, "
    "collapse and calibrate take them"
)

NO_SITES = (
    "no sites: the tree holds no leaf named `slope`, as one that is collapsed whole or of another "
    "model. Build the model with lcjax.CollapsibleMLP or lcjax.CollapsibleActivation and pass its "
    "params; for a model that you cannot change, or of Flax NNX, Equinox or Haiku, use "
    "f = lcjax.collapsible(apply_fn) and f.init, f.sites, f.collapse."
)


def check_tree(tree: Any, name: str, *, nested: bool = True) -> None:
    """Raises TypeError unless a tree is one of variables or params.

    Args:
      tree: what the user gave.
      name: of the function that takes it.
      nested: whether only nested dicts will do.
    """
    if hasattr(tree, "params") and hasattr(tree, "opt_state"):
        raise TypeError(
            f"{name}: got {type(tree).__name__}, whose optimizer state holds slopes too; expected "
            "params or variables. Pass state.params, or {'params': state.params} and what other "
            "collections the model has."
        )
    if isinstance(tree, nn.Module):
        raise TypeError(
            f"{name} takes nested dicts (params or variables), got {type(tree).__name__}, the "
            "module itself. Pass what its init returned: variables = model.init(key, x)."
        )
    if nested and not isinstance(tree, Mapping):
        raise TypeError(
            f"{name} takes nested dicts (params or variables), got {type(tree).__name__}. Pass "
            f"what model.init returned or training made of it. {_OTHER_LIBRARIES}."
        )
    params = tree.get("params", tree) if isinstance(tree, Mapping) else None
    if not isinstance(params, Mapping):
        return
    for keys, leaf in jax.tree_util.tree_leaves_with_path(meta.unbox(params)):
        names = [str(getattr(key, "key", "")) for key in keys]
        if not hasattr(leaf, "shape") and not _LEAVES.isdisjoint(names):
            raise TypeError(
                f"{'/'.join(filter(None, names))}: got {type(leaf).__name__}, no array; expected "
                "NumPy or JAX arrays. Convert lists and numbers with jnp.asarray."
            )


def check_sites(sites: Any) -> None:
    """Raises TypeError unless a choice of sites is made of paths."""
    if callable(sites):
        raise TypeError(
            f"sites is {kind(sites)}; expected paths, globs, Sites, a Plan or None. The order is "
            "sensitivity(apply_fn, variables, sites, metric, batches); give sites=None for all."
        )
    if isinstance(sites, Real):
        raise TypeError(
            f"sites is {sites!r}, {kind(sites)}; expected paths or globs such as 'block_1/*', "
            "Sites or a Plan. Give other arguments by name: threshold=0.1, last=1."
        )
    if isinstance(sites, (str, Mapping)) or not hasattr(sites, "__iter__"):
        return
    wrong = [site for site in sites if not isinstance(site, str) and not hasattr(site, "path")]
    if wrong:
        raise TypeError(
            f"sites holds {kind(wrong[0])}; expected paths or globs such as 'block_1/*'. "
            "lcjax.find_sites(variables).paths lists them; the order of arguments is "
            "(apply_fn, variables, batches, sites)."
        )


def check_number(name: str, value: Any) -> None:
    """Raises TypeError unless a value is a number; of a tracer nothing is asked."""
    if not isinstance(value, (Real, Tracer)) and getattr(value, "shape", None) != ():
        raise TypeError(f"{name} is {value!r}; expected a number. Pass one such as 0.05.")


def check_optimizer(tx: Any, name: str = "inner") -> None:
    """Raises TypeError unless this is an optax optimizer."""
    if hasattr(tx, "init") and hasattr(tx, "update"):
        return
    if callable(tx):
        called = getattr(tx, "__name__", "it")
        raise TypeError(
            f"{name} is {kind(tx)}, not called yet; expected an optax optimizer. Call it: "
            f"optax.{called}(learning_rate)."
        )
    raise TypeError(
        f"{name} is {kind(tx)}; expected an optax optimizer. Pass one such as optax.adam(1e-3)."
    )


def check_state(name: str, state: Any, params: Any) -> None:
    """Raises CollapseError where an optimizer state is of params with other slopes than these.

    Args:
      name: of the transform.
      state: a tree like the params that it was made for, with leaves at slopes alone.
      params: that are trained now.
    """
    ours, known, there = _paths(state), _paths(state, optax.MaskedNode), _paths(params)
    other = (ours - there) | (slope_paths(there) - known)
    if other:
        raise CollapseError(
            f"{name}: the optimizer state is of other params than these; they differ in "
            f"{some(other)}. After a collapse convert it: opt_state = lcjax.carry_opt_state(tx, "
            "opt_state, old_params, new_params, report)."
        )


def _paths(tree: Any, leaf: type | tuple[type, ...] = ()) -> set[str]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, leaf))
    return {leaf_path(keys) for keys, _ in found}


def check_path(path: Any) -> None:
    """Raises TypeError unless this is a path."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(
            f"path is {kind(path)}; expected the name of a directory. Look at the order of the "
            "arguments: save(path, tree), restore(path), export(apply_fn, variables, inputs, path)."
        )


def check_activation(fn: Any, owner: str) -> None:
    """Raises TypeError unless an activation is a function."""
    if isinstance(fn, str) or not callable(fn):
        like = fn if isinstance(fn, str) and hasattr(nn, fn) else "gelu"
        raise TypeError(
            f"{owner}: activation is {fn!r}; expected an elementwise function. Pass nn.{like}."
        )


def check_features(features: Any, owner: str) -> None:
    """Raises TypeError unless features are several widths."""
    if isinstance(features, str) or not hasattr(features, "__len__"):
        raise TypeError(
            f"{owner}: features is {features!r}; expected the widths of the Dense layers, the "
            "output's last. Pass a tuple such as (256, 10)."
        )


def kind(value: Any) -> str:
    """Returns what a value is in a few words, with an article."""
    name = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', name)}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def some(names: Any) -> str:
    """Returns the first of some names, sorted, and how many more there are."""
    names = sorted(map(str, names))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
