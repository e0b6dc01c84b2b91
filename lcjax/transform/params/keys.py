"""Names of sites, from the paths of the leaves that are their first kernels."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lcjax.tree.encoding import readable
from lcjax.tree.paths import in_params, leaf_path

_KERNELS = frozenset({"kernel", "weight", "w"})


def site_name(keys: Sequence[Any]) -> str:
    """Returns the name of the site whose first kernel is the leaf at this key path.

    The path of the leaf inside params, without its last part if that is only a word for kernel:
    `block_3/Dense_0` for `params/block_3/Dense_0/kernel`, `w1` for `w1`.
    """
    return _site_name(leaf_path(keys))


def site_at(path: str) -> str:
    """Returns the name of the site whose first kernel is the leaf at this encoded path."""
    return _site_name(readable(path))


def _site_name(path: str) -> str:
    parent, _, name = in_params(path).rpartition("/")
    return parent if parent and name in _KERNELS else in_params(path)


def abstract(shape: Sequence[int], dtype: str) -> jax.ShapeDtypeStruct:
    """Returns a removed leaf as its shape and dtype."""
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
