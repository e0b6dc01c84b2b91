"""From a deep model and a tree to a compact model, and back."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax

from lcjax.eqx.collapsed import Collapsed
from lcjax.eqx.linear import as_linear
from lcjax.eqx.owners import Owner
from lcjax.eqx.places import Path, node_at, with_node
from lcjax.transform.params.keys import site_at
from lcjax.transform.params.tree import FunctionParams, remove_leaves
from lcjax.tree.encoding import encode
from lcjax.tree.fused_key import FusedKey


def deliver(model: Any, owners: Sequence[Owner]) -> Any:
    """Returns the model with modules of fused layers, or slopes, in the place of their owners.

    Args:
      model: the deep model.
      owners: what `find_owners` returned.
    """
    # Those inside others come first, so that places are still those of the deep model.
    for owner in sorted(owners, key=lambda each: len(each.run.path), reverse=True):
        linear = as_linear(owner)
        if linear is None:
            module = remove_leaves(node_at(model, owner.run.path), owner.removed)
            fused = {str(key): entry for key, entry in owner.fused.items()}
            linear = Collapsed(module, owner.slopes, fused, owner.stack)
        model = with_node(model, owner.run.path, linear)
    return model


def take_apart(model: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Returns the model without modules of lcjax, the slopes in it, and its fused entries.

    The model has None for the arrays that were fused. Names are those of the whole model.
    """
    slopes: dict[str, Any] = {}
    fused: dict[str, Any] = {}
    for path, node in _collapsed(model):
        inner = FunctionParams(take_apart(node.module)[0], node.slopes, node.fused)
        folder = "".join(f"{name}/" for name in path)
        names = _site_names(inner, folder)
        for own, slope in node.slopes.items():
            slopes[names[own]] = slope
        for text, entry in node.fused.items():
            key = FusedKey.parse(text)
            removed = {
                f"{folder}{leaf}": ((*node.stack, *shape), dtype)
                for leaf, (shape, dtype) in key.removed.items()
            }
            sites = tuple(names[site] for site in key.sites)
            fused[str(FusedKey(sites, key.widths, removed, key.units))] = entry
        model = with_node(model, path, node.module)
    return model, slopes, fused


def _collapsed(model: Any) -> list[tuple[Path, Collapsed]]:
    """Returns the modules of lcjax in a model with their places, outer ones first."""
    found: list[tuple[Path, Collapsed]] = []

    def look(node: Any, path: Path) -> None:
        flat = jax.tree_util.tree_leaves_with_path(node, is_leaf=_is_collapsed)
        for keys, leaf in flat:
            if _is_collapsed(leaf):
                inside = (*path, *encode(keys).split("/")) if keys else path
                found.append((inside, leaf))
                look(leaf.module, inside)

    look(model, ())
    return found


def _is_collapsed(node: Any) -> bool:
    return isinstance(node, Collapsed)


def _site_names(params: FunctionParams, folder: str) -> dict[str, str]:
    """Returns the names of sites in the whole model by those in a module."""
    leaves = jax.tree_util.tree_leaves_with_path(params.model)
    paths: Iterable[str] = [*(encode(keys) for keys, _ in leaves), *params.removed]
    return {site_at(path): site_at(f"{folder}{path}") for path in paths}
