"""Trees of params by path: leaves and subtrees taken, replaced, and masked."""

from collections.abc import Collection, Mapping
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from lcjax.tree.paths import in_params, leaf_path


def at_path(params: Any, path: str) -> Any:
    """Returns the leaf or subtree at a path; "" is the whole."""
    return reduce(lambda node, name: node[name], path.split("/") if path else [], params)


def at_paths(params: Any, paths: Collection[str]) -> dict[str, Any]:
    """Returns the leaves or subtrees at these paths."""
    return {path: at_path(params, path) for path in paths}


def replace_at(params: Any, found: dict[str, Any]) -> Any:
    """Returns nested dicts with other, or new, leaves or subtrees at these paths."""
    flat = flatten_dict(params, sep="/", is_leaf=lambda keys, _: "/".join(keys) in found)
    return unflatten_dict(flat | found, sep="/")


def masked_updates(inner: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """Returns an optimizer whose gradients and updates are 0 where the mask is False."""
    masked = optax.stateless(lambda updates, _: apply_mask(updates, mask))
    return optax.chain(masked, inner, masked)


def apply_mask(params: Any, mask: Any) -> Any:
    """Returns params with zeros where the mask, a tree of arrays to broadcast, is False."""
    return jax.tree.map(
        lambda leaf, keep: jnp.where(keep, leaf, 0).astype(leaf.dtype), params, mask
    )


def count_masked(params: Any, mask: Any) -> int:
    """Returns the number of entries of params where the mask is False."""
    masked = jax.tree.map(
        lambda leaf, keep: leaf.size - np.broadcast_to(keep, leaf.shape).sum(), params, mask
    )
    return int(sum(jax.tree.leaves(masked)))


def mask_tree(params: Any, masks: Mapping[str, np.ndarray]) -> Any:
    """Returns a tree like params with the masks at their paths, and True elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: masks.get(in_params(leaf_path(keys)), np.array(True)), params
    )
