"""The containers of a tree: records their kinds, and rebuilds the tree from leaves by path."""

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
from flax.core import meta
from jax.tree_util import DictKey

from lcjax.io.leaves import LeafPath, key_of

# Kinds of nodes; any other node is a dict that is not empty, with strings as keys.
DICT, LIST, TUPLE, NONE, VARIABLE = KINDS = ("dict", "list", "tuple", "none", "variable")
MAX_DEPTH = 256  # levels of a tree
Containers = Mapping[LeafPath, str]


def containers(tree: Any) -> dict[LeafPath, str]:
    """Returns, by path, the kind of every node that the paths of leaves do not determine.

    These are lists, tuples and Nones, dicts that are empty or have indices as keys, and variables
    of Flax NNX. Other nodes count as the dict or list of their children.

    Raises:
      TypeError: a key that is neither a string nor an index.
      ValueError: a tree that is nested too deeply.
    """
    return dict(_walk((), tree))


def _walk(path: LeafPath, node: Any) -> Iterator[tuple[LeafPath, str]]:
    if len(path) > MAX_DEPTH:
        raise ValueError(f"tree: got more than {MAX_DEPTH} levels, expected fewer.")
    if meta.is_axis_metadata(node):
        return
    pairs = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda one: one is not node)
    if pairs and pairs[0][0] == ():
        return  # a leaf
    kind = _kind(node, [keys[0] for keys, _ in pairs])
    if kind is not None:
        yield path, kind
    for keys, child in pairs:
        yield from _walk((*path, key_of(keys[0])), child)


def _kind(node: Any, keys: list[Any]) -> str | None:
    if node is None:
        return NONE
    if isinstance(node, list):
        return LIST
    if isinstance(node, tuple) and not hasattr(node, "_fields"):
        return TUPLE
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(node, nnx.Variable) and list(map(key_of, keys)) == ["value"]:
        return VARIABLE
    if not keys:
        return DICT
    indices = any(isinstance(key_of(key), int) for key in keys)
    if not indices:
        return None
    return DICT if isinstance(keys[0], DictKey) else LIST


def assemble(leaves: Mapping[LeafPath, Any], kinds: Containers = MappingProxyType({})) -> Any:
    """Returns the tree with these leaves and containers.

    Nodes without a kind are lists if a key is an index, with None in gaps, and dicts otherwise.
    """
    return _assemble((), _nested(leaves, kinds), kinds, False)


def as_stored(leaves: Mapping[LeafPath, Any], kinds: Containers) -> Any:
    """Returns the tree of these leaves for orbax: lists, and dicts with strings as keys."""
    return _assemble((), _nested(leaves, {}), kinds, True)


class _Leaf:
    def __init__(self, value: Any):
        self.value = value


def _nested(leaves: Mapping[LeafPath, Any], kinds: Containers) -> Any:
    root: Any = {}
    for path in kinds:
        _node(root, path)
    for path, leaf in leaves.items():
        if not path:
            return _Leaf(leaf)
        _node(root, path[:-1])[path[-1]] = _Leaf(leaf)
    return root


def _node(root: Any, path: LeafPath) -> Any:
    for key in path:
        root = root.setdefault(key, {})
    return root


def _assemble(path: LeafPath, node: Any, kinds: Containers, stored: bool) -> Any:
    if isinstance(node, _Leaf):
        return node.value
    kind = kinds.get(path)
    if kind == NONE:
        return None
    children = {key: _assemble((*path, key), child, kinds, stored) for key, child in node.items()}
    if kind == VARIABLE and not stored:
        return children["value"]
    indices = [key for key in children if isinstance(key, int)]
    if kind in (LIST, TUPLE) or (kind is None and indices):
        listed = [children.get(index) for index in range(max(indices, default=-1) + 1)]
        return tuple(listed) if kind == TUPLE and not stored else listed
    return {str(key): child for key, child in children.items()} if stored else children
