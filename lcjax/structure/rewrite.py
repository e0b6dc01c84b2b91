"""Writes replacements into a copy of a variables tree, and records what it wrote and removed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.core import FrozenDict, freeze, meta

from lcjax.algebra.bypasses import follow_dense, split_dense
from lcjax.algebra.fuse import dense_flops, fuse_dense
from lcjax.algebra.sharding import rebox_dense, take_units
from lcjax.errors import CollapseError
from lcjax.structure.chains.chain import Chain, bypass_of, factor_before, join
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.tree.paths import leaves_by_path, node_at, tree_order


class Rewriter:
    """A copy of a variables tree that replacements are written into.

    Args:
      variables: nested dicts: params alone, or whole variables. They are not changed, and leaves
        that no replacement touches are shared with them.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self._frozen = isinstance(variables, FrozenDict)
        self._tree = copy_dicts(variables)
        whole = "params" in self._tree
        self._params = self._tree["params"] if whole else self._tree
        self._stats = self._tree.get("batch_stats", {}) if whole else {}
        self._written: dict[str, Any] = {}
        self._removed: set[str] = set()

    @property
    def written(self) -> dict[str, Any]:
        """The new leaves by their paths inside params, in the order of the tree."""
        return {path: self._written[path] for path in sorted(self._written, key=tree_order)}

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths inside params of the leaves that are not in the tree any more, in its order."""
        return tuple(sorted(self._removed - self._written.keys(), key=tree_order))

    def write(self, chain: Chain, segment: Segment, replacement: Replacement) -> None:
        """Writes a replacement of a segment of a chain.

        Of segments that share a layer the earlier one is written first.

        Raises:
          CollapseError: a pair to remove that is not the whole chain.
        """
        names = [name.removeprefix(join(chain.path, "")) for name in segment.names]
        node = node_at(self._params, chain.path)
        before = {name: node[name] for name in names}
        if not replacement.layers:
            _check_whole(chain, segment)
        if replacement.units is not None:
            self._cut(chain, names[0], segment.sites[0], replacement.units)
        new = replacement.layers
        unchanged = {names[layer.replaces[-1]] for layer in new if layer.params is None}
        for name in names:
            if name not in unchanged:
                self._remove(chain, name)
        for params, replaces, factor in new:
            if params is None:
                continue
            first, last = before[names[replaces[0]]], before[names[replaces[-1]]]
            if segment.entry is not None and replaces[0] == 0:
                added, params = split_dense(params, segment.entry.width)
                name = segment.entry.name.removeprefix(join(chain.path, ""))
                like = node[name] if segment.entry.width else first
                self._put(chain, name, rebox_dense(dict(added), like, last))
            self._put_layer(chain, names[replaces[-1]], params, factor, (first, last))
        for (name, like), gate in zip(self._gates(chain).items(), replacement.gates, strict=False):
            if gate.params is not None:
                self._put_layer(chain, name, gate.params, gate.factor, (like, like))
        for i in chain.acts:
            if chain.site(i) in replacement.collapsed:
                for name in (chain.act_name(i), f"norm_{i}", chain.bypass_name(i)):
                    self._remove(chain, name)
                node_at(self._stats, chain.path).pop(f"norm_{i}", None)
        for name in chain.gates if replacement.collapsed else ():
            self._remove(chain, name)
        if replacement.bypass is not None:
            name = bypass_of(segment.sites[0]).removeprefix(join(chain.path, ""))
            ends = before[names[0]], before[names[-1]]
            self._remove(chain, name)
            self._put(chain, name, rebox_dense(dict(replacement.bypass), *ends))

    def flops(self, chain: Chain) -> int:
        """Returns multiply-adds times two for one token through what is left of a chain."""
        node = node_at(self._params, chain.path)
        names = [*map(chain.dense_name, chain.denses), *map(chain.bypass_name, chain.acts)]
        names += chain.gates
        every = dict.fromkeys(each for name in names for each in (factor_before(name), name))
        return dense_flops(meta.unbox(node[name]) for name in every if name in node)

    def tree(self) -> Any:
        """Returns the tree, of the type of the input."""
        tree = self._tree
        if "params" in tree and "batch_stats" in tree:
            stats = _without_empty(self._stats)
            tree = {**tree, "batch_stats": stats}
            if not stats:
                del tree["batch_stats"]
        return freeze(tree) if self._frozen else tree

    def _cut(self, chain: Chain, first: str, site: str, units: np.ndarray) -> None:
        """Leaves only some hidden units in what gives them: first layer, gate, slopes and norm."""
        (i,) = (i for i in chain.acts if chain.site(i) == site)
        node, stats = (node_at(tree, chain.path) for tree in (self._params, self._stats))
        names = [first, f"norm_{i}"] + ["gate"] * (chain.gate is not None)
        earlier = max((j for j in chain.acts if j < i), default=None)
        if earlier is not None and _is_last_of(chain, earlier, first):
            names.append(chain.bypass_name(earlier))
        if chain.acts[i].ndim:
            names.append(chain.act_name(i))
        for name in names:
            if name in node:
                self._put(
                    chain, name, {k: take_units(leaf, units) for k, leaf in node[name].items()}
                )
        norm = stats.get(f"norm_{i}", {})
        norm |= {name: take_units(leaf, units) for name, leaf in norm.items()}

    def _gates(self, chain: Chain) -> dict[str, Any]:
        """Returns the params of the gate of a chain, by its name; none where it has none."""
        node = node_at(self._params, chain.path)
        return {"gate": node["gate"]} if chain.gate is not None else {}

    def _put_layer(
        self, chain: Chain, name: str, params: Any, factor: Any, like: tuple[Any, Any]
    ) -> None:
        """Writes a Dense, and the factor before it, multiplied with one that is there.

        So is the bypass that is added to the output of that one.
        """
        self._put(chain, name, rebox_dense(dict(params), *like))
        if factor is None:
            return
        own, node = factor_before(name), node_at(self._params, chain.path)
        there = node.get(own)
        fused = factor if there is None else fuse_dense([meta.unbox(there), factor])
        self._put(chain, own, rebox_dense(dict(fused), there or like[0], like[1]))
        for i in (i for i in chain.denses if there and chain.dense_name(i) == own):
            before = chain.before(i)
            if before is not None:
                added = chain.bypass_name(before)
                passed = follow_dense(meta.unbox(node[added]), factor)
                self._put(chain, added, meta.replace_boxed(node[added], passed))

    def _put(self, chain: Chain, name: str, leaves: dict[str, Any]) -> None:
        node_at(self._params, chain.path)[name] = leaves
        for leaf, array in leaves.items():
            self._written[join(join(chain.path, name), leaf)] = array

    def _remove(self, chain: Chain, name: str) -> None:
        module = node_at(self._params, chain.path).pop(name, {})
        for leaf in leaves_by_path(module):
            path = join(join(chain.path, name), leaf)
            self._removed.add(path)
            self._written.pop(path, None)


def _is_last_of(chain: Chain, i: float, name: str) -> bool:
    """Returns whether a layer is the last of the pair around an activation."""
    return chain.dense_name(chain.after(i)) == name


def _check_whole(chain: Chain, segment: Segment) -> None:
    own = [join(chain.path, chain.dense_name(i)) for i in chain.denses]
    if own != list(segment.names):
        raise CollapseError(
            f"{segment.label}: got a pair to remove that is a part of a chain, "
            f"{', '.join(own)}; expected the whole chain, since its output would be a constant. "
            "Remove all sites of the chain, or take another fit for this one."
        )


def copy_dicts(tree: Any) -> Any:
    """Returns nested mappings as new plain dicts that share the leaves."""
    if isinstance(tree, Mapping):
        return {name: copy_dicts(child) for name, child in tree.items()}
    return tree


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts without those in which nothing is left."""
    children = {
        name: _without_empty(child) if isinstance(child, dict) else child
        for name, child in tree.items()
    }
    return {n: child for n, child in children.items() if not isinstance(child, dict) or child}
