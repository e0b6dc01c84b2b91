"""What a fit puts in the place of fused sites, which only the checkpoint knows."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lcjax.io.containers import assemble
from lcjax.io.leaves import flatten
from lcjax.transform.params.tree import PARTS

_FUSED = "fused"


def with_fused(like: Any, manifest: Mapping[str, Any]) -> Any:
    """Returns a collapsible function's tree with those fused entries that the checkpoint has.

    The shapes of an exact collapse are known beforehand; a fit adds biases, and a rank makes
    factors. An entry's key says which leaves it replaces, so that entries of the same key are of
    the same sites. Any other tree comes back as it is.

    Args:
      like: the tree that a restore is to follow, or None.
      manifest: of the checkpoint.
    """
    if not isinstance(like, Mapping) or set(like) != set(PARTS):
        return like
    saved: dict[Any, dict[Any, Any]] = {}
    for path, entry in manifest["leaves"].items():
        if len(path) > 2 and path[0] == _FUSED:
            shape = jax.ShapeDtypeStruct(entry["shape"], np.dtype(entry["dtype"]))
            saved.setdefault(path[1], {})[path[2:]] = shape
    fused = {
        key: _entry(dense, saved[key]) if key in saved else dense
        for key, dense in like[_FUSED].items()
    }
    return {**like, _FUSED: fused}


def _entry(dense: Any, saved: Mapping[Any, Any]) -> Any:
    """Returns a fused entry of the leaves that were saved, placed as those that are known."""
    known = flatten(dense)
    if known.keys() == saved.keys():
        return dense
    return assemble({path: known.get(path, shape) for path, shape in saved.items()}, {})
