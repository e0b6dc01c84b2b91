"""Places in a module: encoded paths of its nodes, and its arrays."""

from typing import Any

from lcjax.eqx.library import equinox as eqx
from lcjax.tree.encoding import decode

Path = tuple[str, ...]  # the parts of an encoded path


def split(module: Any) -> tuple[Any, Any]:
    """Returns a module with None for all but its arrays, and one with None for them."""
    return eqx.partition(module, is_array)


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is an array, of JAX or NumPy, or a ShapeDtypeStruct."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def node_at(module: Any, path: Path) -> Any:
    """Returns the node at a place of a module."""
    for name in path:
        key = decode(name)
        module = getattr(module, name[1:]) if key is None else module[key]
    return module


def with_node(module: Any, path: Path, node: Any) -> Any:
    """Returns the module with another node at a place."""
    if not path:
        return node
    return eqx.tree_at(lambda tree: node_at(tree, path), module, node, is_leaf=lambda x: x is None)
