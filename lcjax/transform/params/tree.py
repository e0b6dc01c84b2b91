"""The tree of a collapsible function: removing leaves of the model, and restoring them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from flax.core import FrozenDict, meta

from lcjax.errors import CollapseError
from lcjax.transform.params.entries import FusedEntry, read_entry
from lcjax.transform.params.keys import abstract
from lcjax.tree.encoding import decode, encode, strip_box_suffix
from lcjax.tree.fused_key import FusedKey
from lcjax.tree.paths import FUNCTION_TREE_PARTS


@dataclass(frozen=True, eq=False, repr=False)
class FunctionParams:
    """The tree of a collapsible function.

    Attributes:
      model: the function's own params, without the leaves that were fused.
      slopes: `{"slope": α}` by site.
      fused: by key, what replaces some sites; see `FusedEntry`.
    """

    model: Any
    slopes: Mapping[str, Any]
    fused: Mapping[str, Any]

    @property
    def tree(self) -> dict[str, Any]:
        """The tree as users have it."""
        return {"model": self.model, "slopes": self.slopes, "fused": self.fused}

    @cached_property
    def keys(self) -> dict[str, FusedKey]:
        """The keys of `fused`, parsed."""
        return {key: FusedKey.parse(key) for key in self.fused}

    @cached_property
    def entries(self) -> dict[str, FusedEntry]:
        """The entries of `fused`, read, by their keys."""
        return {name: read_entry(self.fused[name], name, self.keys[name]) for name in self.fused}

    @property
    def collapsed(self) -> frozenset[str]:
        """Paths of the sites whose activation was removed."""
        return frozenset(
            path for key in self.keys.values() for path in key.sites if path not in key.narrow
        )

    @property
    def linear(self) -> frozenset[str]:
        """Paths of the sites that one matrix, or factors of it, replaces."""
        keys = [key for key in self.keys.values() if not key.removes]
        return frozenset(path for key in keys for path in key.linear)

    @cached_property
    def narrow(self) -> dict[str, int]:
        """How many units stay, by the sites that have fewer than the function."""
        return {path: k for key in self.keys.values() for path, k in key.narrow.items()}

    @cached_property
    def removed(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of the leaves that were fused, by encoded path."""
        missing = {}
        for name, key in self.keys.items():
            own = str(self.entries[name].dtype)
            for path, (shape, dtype) in key.removed.items():
                missing[path] = abstract(shape, dtype or own)
        return missing


def is_function_tree(params: Any) -> bool:
    """Returns whether this is the tree of a collapsible function, not a function's own params."""
    keys = set(params) if isinstance(params, Mapping) else set()
    return keys <= FUNCTION_TREE_PARTS and bool(keys & {"slopes", "fused"})


def read_params(params: Any) -> FunctionParams:
    """Returns the parts of a tree that `init`, `collapse` or a restore returned.

    Raises:
      CollapseError: another tree.
    """
    keys = set(params) if isinstance(params, Mapping) else None
    if not keys or not keys <= FUNCTION_TREE_PARTS:
        got = type(params).__name__ if not keys else f"a mapping of {sorted(map(str, keys))}"
        raise CollapseError(
            f"params: got {got}, expected a mapping of 'model', 'slopes' and 'fused'. Pass what "
            "the collapsible function's own `init` or `collapse` returned, not the bare params."
        )
    # A model of lists alone of which nothing is left does not come back from a restore.
    return FunctionParams(params.get("model"), params.get("slopes", {}), params.get("fused", {}))


def remove_leaves(tree: Any, removed: Collection[str]) -> Any:
    """Returns a tree without some leaves, by encoded path.

    Dicts lose the keys, and dicts and lists that become empty are removed; other containers have
    None in the place of the leaf.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    gone = {strip_box_suffix(path) for path in removed}
    leaves = [None if _place(keys) in gone else leaf for keys, leaf in flat]
    return _pruned(tree, jax.tree.unflatten(structure, leaves))


def _pruned(before: Any, after: Any) -> Any:
    if isinstance(before, (dict, FrozenDict)):
        opens = {name for name in before if type(name) in (str, int)}  # which `_inserted` enters
        kept = {
            name: _pruned(child, after[name]) if name in opens else after[name]
            for name, child in before.items()
            if name not in opens or jax.tree.leaves(after[name]) or not _restorable(child)
        }
        return FrozenDict(kept) if isinstance(before, FrozenDict) else kept
    if type(before) is list:
        return [_pruned(*pair) for pair in zip(before, after, strict=True)]
    return after


def _restorable(node: Any) -> bool:
    """Returns whether `restore_leaves` can rebuild a node from the paths of its leaves."""
    if isinstance(node, (dict, FrozenDict)):
        return bool(node) and all(isinstance(k, str) and _restorable(v) for k, v in node.items())
    if type(node) is list:
        return bool(node) and all(map(_restorable, node))
    return meta.is_axis_metadata(node) or jax.tree_util.all_leaves([node])


def restore_leaves(tree: Any, missing: Mapping[str, Any]) -> Any:
    """Returns a tree with leaves put back where `remove_leaves` removed them.

    Args:
      tree: what `remove_leaves` returned.
      missing: the leaves, by encoded path without boxes.

    Raises:
      CollapseError: a leaf without a place, or with one that is taken; names the path.
    """
    places = [_place(keys) for keys, _ in _with_gaps(tree)]
    for path, leaf in missing.items():
        if path not in places:
            tree = _inserted(tree, path.split("/"), leaf, path)
    flat = _with_gaps(tree)
    structure = jax.tree.structure(tree, is_leaf=_is_gap)
    leaves = []
    for keys, leaf in flat:
        restored = missing.get(_place(keys))
        if restored is not None and leaf is not None and leaf is not restored:
            raise CollapseError(
                f"model/{_place(keys)}: the leaf is there, and an entry of `fused` says that it "
                "was fused away. Restore a tree that the function's `collapse` returned."
            )
        leaves.append(leaf if restored is None else restored)
    return jax.tree.unflatten(structure, leaves)


def _place(keys: Any) -> str:
    """Returns the encoded path of a leaf, without the box, which is removed with it."""
    return strip_box_suffix(encode(keys))


def _is_gap(node: Any) -> bool:
    return node is None


def _with_gaps(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_gap)[0]


def _inserted(node: Any, names: list[str], leaf: Any, path: str) -> Any:
    """Returns a node with a leaf added; only dicts and lists are entered or created."""
    if not names:
        return leaf
    key = decode(names[0])
    node = ([] if isinstance(key, int) else {}) if node is None else node
    if isinstance(key, int) and type(node) is list:
        grown = node + [None] * (key + 1 - len(node))
        grown[key] = _inserted(grown[key], names[1:], leaf, path)
        return grown
    if key is not None and isinstance(node, (dict, FrozenDict)):
        return type(node)({**node, key: _inserted(node.get(key), names[1:], leaf, path)})
    raise CollapseError(
        f"model/{path}: was fused away, and there is no place to put its shape back: "
        f"{type(node).__name__} has none. Restore with `like`, made by "
        "f.trace(...).abstract_collapse(sites)."
    )
