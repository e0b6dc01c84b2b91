"""Flattens trees to leaves by path, compares and rebuilds them, and checks leaves to save."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.core import Tracer
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from lcjax.tree.paths import natural_sort_key

LeafPath = tuple[str | int, ...]  # a str is a key of a dict, an int an index of a list
Array = jax.Array | np.ndarray

DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64"
    " complex64 complex128 float8_e4m3fn float8_e4m3b11fnuz float8_e5m2".split()
)


def flatten(tree: Any) -> dict[LeafPath, Any]:
    """Returns the unboxed leaves of a tree by path, in JAX's order.

    Raises:
      TypeError: a key that is neither a string nor an index.

    Example:
      >>> flatten({"mlp": {"kernel": 1, "bias": 2}, "scales": [3]})
      {('mlp', 'bias'): 2, ('mlp', 'kernel'): 1, ('scales', 0): 3}
    """
    try:
        boxed = jax.tree_util.tree_leaves_with_path(tree, is_leaf=meta.is_axis_metadata)
    except ValueError as error:  # keys that JAX cannot sort
        raise TypeError(
            f"tree: got a dict with keys of several types ({error}), expected one type."
        ) from error
    paths = [tuple(map(key_of, keys)) for keys, _ in boxed]
    return dict(zip(paths, jax.tree.leaves(tree), strict=True))


def empty_dicts(tree: Any) -> list[LeafPath]:
    """Returns the paths of empty dicts, which the paths of leaves do not show."""

    def empty(node: Any) -> bool:
        return isinstance(node, Mapping) and not node

    nodes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=empty)
    return [tuple(map(key_of, keys)) for keys, node in nodes if empty(node)]


def narrowed(dtype: np.dtype) -> bool:
    """Returns whether JAX would narrow a dtype, as float64 without `jax_enable_x64`."""
    return jax.dtypes.canonicalize_dtype(dtype) != dtype


def in_jax(leaf: Array, sharding: Any = None) -> Array:
    """Returns a leaf as a JAX array; NumPy arrays that JAX would narrow stay."""
    keep = isinstance(leaf, jax.Array) or narrowed(leaf.dtype)
    return leaf if keep else jax.device_put(leaf, sharding)


def saveable(path: LeafPath, leaf: Any) -> Array:
    """Returns a leaf as an array that can be saved and restored bitwise.

    Raises:
      TypeError: not an array with values, or of a dtype that cannot be saved; names the leaf.
      ValueError: an array that was donated or deleted; names the leaf.
    """
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{joined(path)}: got a masked array, whose mask would be lost; fill it.")
    if isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray):
        leaf = np.asarray(leaf)
        leaf = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
    if not isinstance(leaf, Array) or isinstance(leaf, Tracer):
        raise TypeError(
            f"{joined(path)}: got {type(leaf).__name__}, expected an array with values."
        )
    if leaf.dtype.name not in DTYPES:
        raise TypeError(
            f"{joined(path)}: got dtype {leaf.dtype}, expected numbers of whole bytes or booleans; "
            "save a random key as jax.random.key_data(key)."
        )
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise ValueError(
            f"{joined(path)}: got an array that was donated or deleted; save it before."
        )
    return leaf


def joined(path: LeafPath) -> str:
    """Returns a path as a string, `block_3/mlp/act_0/slope`."""
    return "/".join(map(str, path))


def describe(leaf: Any) -> str:
    """Returns shape and dtype of a leaf, abstract or concrete, such as `(3, 4) float32`."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{tuple(leaf.shape)} {leaf.dtype.name}"


def diff(
    ours: Mapping[LeafPath, str], theirs: Mapping[LeafPath, str], our_name: str, their_name: str
) -> list[str]:
    """Returns a line for every difference between two trees, in the natural order of paths.

    Args:
      ours: the `describe` of each leaf of the first tree.
      theirs: the same of the second tree.
      our_name: name of the first tree in the lines.
      their_name: name of the second tree.
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
    """Returns the string or the index of a key in a JAX key path.

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
    raise TypeError(f"tree: got the key {key}, expected a string or an index.")
