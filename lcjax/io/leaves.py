"""The leaves of a tree by path: what of them can be saved, how two trees differ, the tree again."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.core import Tracer
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from lcjax.tree.paths import natural_sort_key

LeafPath = tuple[str | int, ...]  # a str leads into a dict, an int into a list
Array = jax.Array | np.ndarray

DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64"
    " complex64 complex128 float8_e4m3fn float8_e4m3b11fnuz float8_e5m2".split()
)


def flatten(tree: Any) -> dict[LeafPath, Any]:
    """Returns the leaves of a tree, out of their boxes, by path and in JAX's order.

    Raises:
      TypeError: a key that is neither a string nor an index.
    """
    try:
        boxed = jax.tree_util.tree_leaves_with_path(tree, is_leaf=meta.is_axis_metadata)
    except ValueError as error:  # JAX cannot sort them
        raise TypeError(f"The tree has a dict with keys of several kinds ({error}).") from error
    paths = [tuple(map(key_of, keys)) for keys, _ in boxed]
    return dict(zip(paths, jax.tree.leaves(tree), strict=True))


def empty_dicts(tree: Any) -> list[LeafPath]:
    """Returns the paths of dicts that hold nothing: no leaf of theirs could bring them back."""

    def empty(node: Any) -> bool:
        return isinstance(node, Mapping) and not node

    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=empty)
    return [tuple(map(key_of, keys)) for keys, node in nodes if empty(node)]


def nest(leaves: Mapping[LeafPath, Any]) -> Any:
    """Returns the dicts and lists that hold these leaves; None stands in the gaps of a list."""
    if () in leaves:
        return leaves[()]
    children: dict[str | int, dict[LeafPath, Any]] = {}
    for path, leaf in leaves.items():
        children.setdefault(path[0], {})[path[1:]] = leaf
    nested = {key: nest(child) for key, child in children.items()}
    indices = [key for key in nested if isinstance(key, int)]
    return [nested.get(index) for index in range(max(indices) + 1)] if indices else nested


def saveable(path: LeafPath, leaf: Any) -> Array:
    """Returns a leaf as an array that can be saved and restored bit for bit.

    Raises:
      TypeError: no array with values, or of a dtype that cannot be saved; names the leaf.
      ValueError: an array that was donated or deleted; names the leaf.
    """
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{joined(path)}: got a masked array, whose mask is not saved; fill it.")
    if isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray):
        leaf = np.asarray(leaf)
        leaf = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
    if not isinstance(leaf, Array) or isinstance(leaf, Tracer):
        raise TypeError(f"{joined(path)}: got {type(leaf).__name__}, wanted an array with values.")
    if leaf.dtype.name not in DTYPES:
        raise TypeError(
            f"{joined(path)}: got dtype {leaf.dtype}, wanted numbers of whole bytes, or booleans;"
            " save a random key as jax.random.key_data(key)."
        )
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise ValueError(f"{joined(path)}: the array was donated or deleted; save before that.")
    return leaf


def joined(path: LeafPath) -> str:
    """Returns a path as messages write it, `block_3/mlp/act_0/slope`."""
    return "/".join(map(str, path))


def describe(leaf: Any) -> str:
    """Returns shape and dtype of a leaf, abstract or not, as `(3, 4) float32`."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{tuple(leaf.shape)} {leaf.dtype.name}"


def diff(
    ours: Mapping[LeafPath, str], theirs: Mapping[LeafPath, str], our_name: str, their_name: str
) -> list[str]:
    """Returns a line for every leaf that two trees do not share, in the natural order of paths.

    Args:
      ours: what `describe` says of the leaves of one tree.
      theirs: the same of the other.
      our_name: what to call the first tree in the lines.
      their_name: what to call the second.
    """
    lines = []
    for path in sorted(
        ours.keys() | theirs.keys(), key=lambda path: natural_sort_key(joined(path))
    ):
        name, mine, other = joined(path), ours.get(path), theirs.get(path)
        if other is None:
            lines.append(f"- only in {our_name}: {name} {mine}")
        elif mine is None:
            lines.append(f"+ only in {their_name}: {name} {other}".rstrip())
        elif mine != other:
            lines.append(f"! {name}: {our_name} {mine}, {their_name} {other}")
    return lines


def key_of(key: Any) -> str | int:
    """Returns a string where a key of JAX's leads into a dict, an index where into a list.

    Raises:
      TypeError: a key of another kind.
    """
    match key:
        case DictKey(key=str(name)) | GetAttrKey(name=str(name)):
            return name
        case SequenceKey(idx=int(index)) | FlattenedIndexKey(key=int(index)):
            return index
        case DictKey(key=int(index)) if not isinstance(index, bool) and index >= 0:
            return index  # as in the states of Flax NNX
    raise TypeError(f"The tree has the key {key}; wanted a string or an index.")
