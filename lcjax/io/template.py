"""The template of a restore: `like` and `sharding`, checked against the checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from lcjax._messages import printable_lines
from lcjax.errors import CheckpointError
from lcjax.io.containers import assemble
from lcjax.io.leaves import LeafPath, describe, diff, flatten, joined
from lcjax.tree.paths import FUNCTION_TREE_PARTS

_FUSED = "fused"
_MAX_DIFFERENCES = 20  # lines in a message


def with_saved_fused(like: Any, manifest: Mapping[str, Any]) -> Any:
    """Returns the tree of a collapsible function with the fused entries of the checkpoint.

    The shapes of an exact collapse are known in advance; a fit adds biases, and a rank creates
    factors. An entry's key names the leaves that it replaces, so entries with the same key are for
    the same sites. Any other tree is returned unchanged.

    Args:
      like: the template of a restore, or None.
      manifest: manifest of the checkpoint.
    """
    if not isinstance(like, Mapping) or set(like) != FUNCTION_TREE_PARTS:
        return like
    saved: dict[Any, dict[Any, Any]] = {}
    for path, record in manifest["leaves"].items():
        if len(path) > 2 and path[0] == _FUSED:
            shape = jax.ShapeDtypeStruct(record["shape"], np.dtype(record["dtype"]))
            saved.setdefault(path[1], {})[path[2:]] = shape
    fused = {
        key: _fused_entry(dense, saved[key]) if key in saved else dense
        for key, dense in like[_FUSED].items()
    }
    return {**like, _FUSED: fused}


def _fused_entry(dense: Any, saved: Mapping[Any, Any]) -> Any:
    """Returns a fused entry with the saved leaves, placed as those of `dense` where it has them."""
    known = flatten(dense)
    if known.keys() == saved.keys():
        return dense
    return assemble({path: known.get(path, shape) for path, shape in saved.items()}, {})


def check_like(target: ocp.path.Path, saved: Mapping[LeafPath, Any], like: Any) -> None:
    """Raises a CheckpointError with a diff unless `like` has the leaves of the checkpoint."""
    given = {name: describe(leaf) for name, leaf in flatten(like).items()}
    _check_same(target, _described(saved), given, "like")


def leaf_shardings(
    target: ocp.path.Path, saved: Mapping[LeafPath, Any], like: Any, sharding: Any
) -> dict[LeafPath, Sharding]:
    """Returns the shardings of leaves by path; other leaves go to the default device."""
    if isinstance(sharding, Sharding):
        chosen = dict.fromkeys(saved, sharding)
    elif sharding is not None:
        chosen, described = flatten(sharding), _described(saved)
        given = {path: described.get(path, "") for path in chosen}
        _check_same(target, described, given, "sharding")
    else:
        # Arrays that JAX placed by default are not committed, and neither are those restored like
        # them.
        chosen = {
            path: leaf.sharding
            for path, leaf in flatten(like).items()
            if getattr(leaf, "sharding", None) is not None and getattr(leaf, "committed", True)
        }
    for path, one in chosen.items():
        if not isinstance(one, Sharding):
            raise TypeError(f"{joined(path)}: got {one!r}, expected a jax.sharding.Sharding.")
        shape = tuple(saved[path]["shape"])
        try:
            one.shard_shape(shape)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{joined(path)}: got {one}, expected a sharding that fits the shape {shape}."
            ) from error
    return chosen


def _described(saved: Mapping[LeafPath, Any]) -> dict[LeafPath, str]:
    return {path: f"{tuple(one['shape'])} {one['dtype']}" for path, one in saved.items()}


def _check_same(
    target: ocp.path.Path, saved: Mapping[LeafPath, str], given: Mapping[LeafPath, str], name: str
) -> None:
    lines = diff(saved, given, "checkpoint", name)
    if lines:
        hidden = len(lines) - _MAX_DIFFERENCES
        shown = lines[:_MAX_DIFFERENCES] + ([f"... and {hidden} more"] if hidden > 0 else [])
        raise CheckpointError(
            f"{target}: checkpoint and {name} differ at {len(lines)} leaves:\n"
            + printable_lines("\n".join(shown))
            + f"\nGive a {name} with the checkpoint's leaves, or none."
        )
