"""Writes replacements into a copy of a variables tree, and records what it wrote and removed."""

from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict, freeze

from lcjax.algebra.sharding import rebox_dense
from lcjax.structure.chains import Chain, join
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.tree.paths import leaves_by_path, node_at


class Rewriter:
    """A copy of a variables tree that replacements are written into.

    Args:
      variables: nested dicts: params alone, or whole variables. They are not changed, and leaves
        that no replacement touches are shared with them.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self._frozen = isinstance(variables, FrozenDict)
        self._tree = _copy(variables)
        whole = "params" in self._tree
        self._params = self._tree["params"] if whole else self._tree
        self._stats = self._tree.get("batch_stats", {}) if whole else {}
        self._written: dict[str, Any] = {}
        self._removed: set[str] = set()

    @property
    def written(self) -> dict[str, Any]:
        """The new leaves by their paths inside params, in the order of the tree."""
        return {path: self._written[path] for path in sorted(self._written, key=_tree_order)}

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths inside params of the leaves that are not in the tree any more, in its order."""
        return tuple(sorted(self._removed - self._written.keys(), key=_tree_order))

    def write(self, chain: Chain, segment: Segment, replacement: Replacement) -> None:
        """Writes a replacement of a segment of a chain."""
        node, stats = node_at(self._params, chain.path), node_at(self._stats, chain.path)
        names = [name.removeprefix(join(chain.path, "")) for name in segment.names]
        before = {name: node[name] for name in names}
        for name in names:
            self._remove(chain, name, node.pop(name))
        for params, replaces in replacement.layers:
            name = names[replaces[-1]]
            if params is None:
                node[name] = before[name]
                self._removed -= {join(join(chain.path, name), leaf) for leaf in before[name]}
                continue
            node[name] = rebox_dense(dict(params), before[names[replaces[0]]], before[name])
            for leaf, array in node[name].items():
                self._written[join(join(chain.path, name), leaf)] = array
        for i in chain.acts:
            if chain.site(i) in replacement.collapsed:
                for name in (chain.act_name(i), f"norm_{i}"):
                    self._remove(chain, name, node.pop(name, {}))
                    stats.pop(name, None)
        if chain.gate is not None and replacement.collapsed:
            self._remove(chain, "gate", node.pop("gate"))

    def tree(self) -> Any:
        """Returns the tree, of the type of the input."""
        tree = self._tree
        if "params" in tree and "batch_stats" in tree:
            stats = _without_empty(self._stats)
            tree = {**tree, "batch_stats": stats}
            if not stats:
                del tree["batch_stats"]
        return freeze(tree) if self._frozen else tree

    def _remove(self, chain: Chain, name: str, node: Any) -> None:
        for path in leaves_by_path(node):
            self._removed.add(join(join(chain.path, name), path))


def _copy(tree: Any) -> Any:
    """Returns nested mappings as new plain dicts that share the leaves."""
    if isinstance(tree, Mapping):
        return {name: _copy(child) for name, child in tree.items()}
    return tree


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts without those in which nothing is left."""
    children = {
        name: _without_empty(child) if isinstance(child, dict) else child
        for name, child in tree.items()
    }
    return {n: child for n, child in children.items() if not isinstance(child, dict) or child}


def _tree_order(path: str) -> list[str]:
    """Returns the sort key under which paths are in the order of a nested dict's leaves."""
    return path.split("/")
