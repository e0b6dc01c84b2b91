"""Names for the leaves of a pytree: slash-joined paths, natural order, and which are slopes."""

import re
from collections.abc import Hashable, Sequence
from typing import Any

import jax

_COLLECTION, _SLOPES = "params/", "slopes/"


def _name(key: Hashable) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def leaf_path(keys: Sequence[Any]) -> str:
    """Returns a leaf's slash-joined path, `block_3/mlp/act_0/slope`, from its JAX key path.

    The box around a partitioned leaf, and the variable around an NNX one, add a `value` of their
    own to the key path; it is left out, so that boxed and unboxed trees have the same paths.
    """
    names = [_name(key) for key in keys]
    if keys and isinstance(keys[-1], jax.tree_util.GetAttrKey) and names[-1] == "value":
        names.pop()
    return "/".join(names)


def in_params(path: str) -> str:
    """Returns a path without the leading `params/` that whole variables have and params lack."""
    return path.removeprefix(_COLLECTION)


def is_slope(keys: Sequence[Any]) -> bool:
    """Tells whether a JAX key path leads to a leaf named `slope`."""
    return is_slope_path(leaf_path(keys))


def is_slope_path(path: str) -> bool:
    """Tells whether a slash-joined path leads to a leaf named `slope`."""
    return path.rpartition("/")[2] == "slope"


def site_of(keys: Sequence[Any]) -> str:
    """Returns the path of the site whose slope stands at this key path; "" for a bare slope.

    In the tree of a collapsible function the slopes stand apart, under `slopes`, which is left out.
    """
    return in_params(leaf_path(keys)).removeprefix(_SLOPES).rpartition("/")[0]


def natural(path: str) -> tuple[Any, ...]:
    """Returns a sort key under which block_2 comes before block_10."""
    parts = re.split(r"(\d+)", path)
    return tuple(int(part) if part.isdecimal() else part for part in parts)
