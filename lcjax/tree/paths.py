"""Names for the leaves of a pytree: slash-joined paths, natural order, and which are slopes."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax

_COLLECTION, _SLOPES = "params/", "slopes/"
_IN_MODULES = "lcjax/slopes/"  # between the module of an NNX site and the rest of its path
FUNCTION_TREE_PARTS = frozenset({"model", "slopes", "fused"})  # of a collapsible function
_KERNELS = frozenset({"kernel", "weight", "w"})
_OWN_NAMES = re.compile(r"act(_\d+)?|Collapsible(Activation|Gate)_\d+")


def _name(key: Hashable) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def leaf_path(keys: Sequence[Any]) -> str:
    """Returns a leaf's slash-joined path, `block_3/mlp/act_0/slope`, from its JAX key path.

    The box of a partitioned leaf and the variable of an NNX leaf add a `value` to the key path.
    It is dropped, so that boxed and unboxed trees have the same paths.

    Example:
      >>> import jax
      >>> tree = {"mlp": {"act_0": {"slope": 0.5}}}
      >>> [leaf_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
      ['mlp/act_0/slope']
    """
    end = len(keys)
    while end and isinstance(keys[end - 1], jax.tree_util.GetAttrKey):
        if keys[end - 1].name != "value":
            break
        end -= 1
    return "/".join(_name(key) for key in keys[:end])


def leaves_by_path(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Returns the leaves of a tree by their slash-joined paths; `is_leaf` as in `jax.tree.map`."""
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {leaf_path(keys): leaf for keys, leaf in flat}


def node_at(tree: Any, path: str) -> Any:
    """Returns the node of nested dicts at a path; an empty dict where there is none."""
    for name in path.split("/") if path else ():
        tree = tree.get(name, {})
    return tree


def tree_order(path: str) -> list[str]:
    """Returns the sort key under which paths are in the order of a nested dict's leaves."""
    return path.split("/")


def in_params(path: str) -> str:
    """Returns a path without the leading `params/` that paths in whole variables have."""
    return path.removeprefix(_COLLECTION)


def slope_paths(paths: Iterable[str]) -> frozenset[str]:
    """Returns the paths of the slopes among all leaf paths of a tree.

    A leaf named `slope` is a slope if it is the only leaf of its module, as in the activations of
    lcjax: with other leaves in the module (`{"slope", "intercept"}`) it belongs to the model. In
    the tree of a collapsible function the slopes are the leaves under the top-level `slopes`, in
    the state of an NNX module those of `lcjax.nnx.add_slopes`.
    """
    paths = list(paths)
    parts = {path.partition("/")[0] for path in map(in_params, paths)}
    if parts <= FUNCTION_TREE_PARTS and parts & {"slopes", "fused"}:
        return frozenset(p for p in paths if in_params(p).startswith(_SLOPES) and is_slope_path(p))
    leaves_of: dict[str, int] = {}
    for path in paths:
        names = path.split("/")
        for end in range(len(names)):
            module = "/".join(names[:end])
            leaves_of[module] = leaves_of.get(module, 0) + 1
    return frozenset(
        p
        for p in paths
        if is_slope_path(p) and (leaves_of[p.rpartition("/")[0]] == 1 or _in_module(p))
    )


def surely_slope(path: str) -> bool:
    """Returns whether the module of a leaf named `slope` has a name that lcjax gives.

    Those are `act`, `act_<i>` and Flax's names for `CollapsibleActivation` and `CollapsibleGate`,
    any name below `slopes` in the tree of a collapsible function, which may be that of a submodule
    (`lcjax.linen.Collapsed`, `lcjax` of an NNX module), and the root, which is the tree of a single
    activation.
    """
    site = in_params(path).rpartition("/")[0]
    below = f"/{_SLOPES}" in f"/{site}"
    return not site or below or bool(_OWN_NAMES.fullmatch(site.split("/")[-1]))


def is_slope(keys: Sequence[Any]) -> bool:
    """Returns whether a JAX key path leads to a leaf named `slope`."""
    return is_slope_path(leaf_path(keys))


def is_slope_path(path: str) -> bool:
    """Returns whether a slash-joined path leads to a leaf named `slope`."""
    return path.rpartition("/")[2] == "slope"


def site_of(keys: Sequence[Any]) -> str:
    """Returns the path of the site whose slope has this key path; "" for a bare slope.

    The tree of a collapsible function keeps slopes under `slopes`, the module of an NNX site under
    `lcjax/slopes`, and a `lcjax.eqx.Collapsed` in its attribute `slopes`, a dict; they are dropped.
    """
    if len(keys) >= 3 and _in_attribute(keys[-3:]):
        return _in_model(leaf_path(keys[:-3]), leaf_path(keys[-2:-1]))
    path = in_params(leaf_path(keys)).removeprefix(_SLOPES)
    if _in_module(path):
        before, _, after = f"/{path}".rpartition(f"/{_IN_MODULES}")
        return _in_model(before.strip("/"), after.rpartition("/")[0])
    return path.rpartition("/")[0]


def site_name(path: str) -> str:
    """Returns the name of the site whose first kernel is the leaf at this path.

    The path inside params, without its last part if that is only a word for kernel.

    Example:
      >>> [site_name(path) for path in ("params/block_3/Dense_0/kernel", "w1", "w")]
      ['block_3/Dense_0', 'w1', 'w']
    """
    parent, _, name = in_params(path).rpartition("/")
    return parent if parent and name in _KERNELS else in_params(path)


def _in_model(module: str, site: str) -> str:
    """Returns the name in a model of a site of a module at a path.

    A kernel that the module has itself gives the site its name: `weight` there, `module` here.
    """
    path = in_params(f"{module}/{site}".strip("/"))
    return path if "/" in site else site_name(path)


def _in_attribute(keys: Sequence[Any]) -> bool:
    """Returns whether the last keys of a slope are those of `module.slopes[site]["slope"]`."""
    attribute, *rest = keys
    in_module = attribute == jax.tree_util.GetAttrKey("slopes")
    return in_module and all(isinstance(key, jax.tree_util.DictKey) for key in rest)


def _in_module(path: str) -> bool:
    return f"/{_IN_MODULES}" in f"/{path}"


def natural_sort_key(path: str) -> tuple[Any, ...]:
    """Returns a sort key that puts block_2 before block_10.

    Example:
      >>> sorted(["block_10", "block_2"], key=natural_sort_key)
      ['block_2', 'block_10']
    """
    parts = re.split(r"(\d+)", path)
    return tuple(int(part) if part.isdecimal() else part for part in parts)
