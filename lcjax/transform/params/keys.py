"""Names of sites, from the paths of the leaves that are their first kernels."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lcjax.tree.encoding import readable
from lcjax.tree.paths import leaf_path, site_name


def site_of_kernel(keys: Sequence[Any]) -> str:
    """Returns the name of the site whose first kernel is the leaf at this key path."""
    return site_name(leaf_path(keys))


def site_at(path: str) -> str:
    """Returns the name of the site whose first kernel is the leaf at this encoded path."""
    return site_name(readable(path))


def abstract(shape: Sequence[int], dtype: str) -> jax.ShapeDtypeStruct:
    """Returns a removed leaf as its shape and dtype."""
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
