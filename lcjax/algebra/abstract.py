"""Arrays without values: tracers and ShapeDtypeStructs."""

from typing import Any

import jax
from jax.core import Tracer


def is_abstract(leaf: Any) -> bool:
    """Returns whether a leaf is a tracer or a ShapeDtypeStruct, which have no values."""
    return isinstance(leaf, (Tracer, jax.ShapeDtypeStruct))


def shapes_of(tree: Any) -> Any:
    """Returns a tree with ShapeDtypeStructs, with their shardings, for arrays."""
    return jax.tree.map(_shape, tree)


def _shape(leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    return jax.ShapeDtypeStruct(
        leaf.shape,
        leaf.dtype,
        sharding=getattr(leaf, "sharding", None),
        weak_type=getattr(leaf, "weak_type", False),
    )
