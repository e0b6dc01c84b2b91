"""Names for the leaves of a pytree: slash-joined paths, natural order, and which are slopes."""

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax

_COLLECTION, _SLOPES = "params/", "slopes/"
_PARTS = {"model", "slopes", "fused"}
_OWN_NAMES = re.compile(r"act(_\d+)?|Collapsible(Activation|Gate)_\d+")


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


def slope_paths(paths: Iterable[str]) -> frozenset[str]:
    """Returns which of a whole tree's leaf paths lead to slopes.

    A leaf named `slope` is one where it is the only leaf of its module, as activations of lcjax
    have it: beside other leaves (`{"slope", "intercept"}`) it is the model's own. In the tree of a
    collapsible function slopes are the leaves under the top-level `slopes`.
    """
    paths = list(paths)
    parts = {path.partition("/")[0] for path in map(in_params, paths)}
    if parts <= _PARTS and parts & {"slopes", "fused"}:
        return frozenset(p for p in paths if in_params(p).startswith(_SLOPES) and is_slope_path(p))
    leaves_of: dict[str, int] = {}
    for path in paths:
        names = path.split("/")
        for end in range(len(names)):
            module = "/".join(names[:end])
            leaves_of[module] = leaves_of.get(module, 0) + 1
    return frozenset(p for p in paths if is_slope_path(p) and leaves_of[p.rpartition("/")[0]] == 1)


def surely_slope(path: str) -> bool:
    """Tells whether the module of a leaf named `slope` has a name that lcjax gives.

    Those are `act`, `act_<i>` and Flax's names for `CollapsibleActivation` and `CollapsibleGate`,
    whatever stands below `slopes` in the tree of a collapsible function, and a bare activation's
    own tree, which has no module.
    """
    path = in_params(path)
    site = path.rpartition("/")[0]
    return not site or path.startswith(_SLOPES) or bool(_OWN_NAMES.fullmatch(site.split("/")[-1]))


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
