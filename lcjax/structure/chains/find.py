"""The chains of Dense layers of a params tree, found by the names of modules."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flax.core import meta

from lcjax.algebra.fuse import DenseParams, cheapest_cuts
from lcjax.structure.chains.chain import OF_GATED, Chain, join
from lcjax.structure.chains.checks import check_chain, compose
from lcjax.tree.paths import natural_sort_key

_DENSE, _ACT = re.compile(r"dense_(\d+)(_in)?"), re.compile(r"act_(\d+)")
_BYPASS = re.compile(r"bypass_(\d+)")


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields every mapping in a tree of mappings with its path, in natural order."""
    if isinstance(tree, Mapping):
        yield path, tree
        for name in sorted(tree, key=lambda name: natural_sort_key(str(name))):
            yield from nodes(tree[name], join(path, str(name)))


def find_chains(params: Any) -> list[Chain]:
    """Returns every chain that has a collapsible activation, in natural order of paths.

    Raises:
      CollapseError: when a chain is half collapsed or its kernels do not compose; names the path.
    """
    chains = []
    for path, node in nodes(meta.unbox(params)):
        chains += [chain for chain in (_gated(path, node), _mlp(path, node)) if chain is not None]
    for chain in chains:
        check_chain(chain)
    return [part for chain in chains for part in _split(chain)]


def _gated(path: str, node: Mapping[str, Any]) -> Chain | None:
    """Returns the chain of a CollapsibleGLU, if a node is one."""
    if not all(_has(node.get(name), "kernel") for name in ("gate", "up", "down")):
        return None
    if not _has(node.get("act"), "slope"):
        return None
    denses = {i: node[name] for i, name in OF_GATED.items() if _has(node.get(name), "kernel")}
    bypasses: dict[float, DenseParams] = (
        {0: node["bypass"]} if _has(node.get("bypass"), "bias") else {}
    )
    acts: dict[float, Any] = {0: node["act"]["slope"]}
    return Chain(path, denses, acts, {}, node["gate"], bypasses, node.get("gate_in"))


def _mlp(path: str, node: Mapping[str, Any]) -> Chain | None:
    """Returns the chain of a CollapsibleMLP, if a node is one."""
    named: dict[float, Any] = {
        int(m[1]): node[name] for name in node if (m := _ACT.fullmatch(str(name)))
    }
    acts = {i: act["slope"] for i, act in sorted(named.items()) if _has(act, "slope")}
    found = ((_DENSE.fullmatch(str(name)), name) for name in node)
    named = {int(m[1]) - (0.5 if m[2] else 0): node[name] for m, name in found if m}
    denses = {i: dense for i, dense in sorted(named.items()) if _has(dense, "kernel")}
    if not acts or not denses:
        return None
    norms = {i: node[f"norm_{i}"] for i in acts if f"norm_{i}" in node}
    named = {int(m[1]): node[name] for name in node if (m := _BYPASS.fullmatch(str(name)))}
    bypasses = {i: bypass for i, bypass in sorted(named.items()) if _has(bypass, "bias")}
    return Chain(path, denses, acts, norms, bypasses=bypasses)


def _has(node: Any, leaf: str) -> bool:
    return isinstance(node, Mapping) and leaf in node and not isinstance(node[leaf], Mapping)


def _split(chain: Chain) -> list[Chain]:
    """Returns a chain without Dense layers of other modules that share its scope and its names.

    Two Dense layers with no activation between them are factors that a collapse left, since one
    matrix would be larger. Where it would not, or they do not compose, one is not part of the
    chain.
    """
    groups: list[list[float]] = [[]]
    for i in chain.denses:
        if groups[-1] and _unrelated(chain, groups[-1][-1], i):
            groups.append([])
        groups[-1].append(i)
    if len(groups) == 1:
        return [chain]
    parts = []
    for group in groups:
        acts = {i: slope for i, slope in chain.acts.items() if i in group}
        norms = {i: chain.norms[i] for i in acts if i in chain.norms}
        if acts:
            denses = {i: chain.denses[i] for i in group}
            bypasses = {i: chain.bypasses[i] for i in acts if i in chain.bypasses}
            parts.append(Chain(chain.path, denses, acts, norms, bypasses=bypasses))
    return parts


def _unrelated(chain: Chain, i: float, j: float) -> bool:
    """Returns whether two Dense layers, neighbours by their names, are not of one chain."""
    if i in chain.acts or math.ceil(i) == j:
        return False
    if not compose(chain.denses[i], chain.denses[j]):
        return True
    first, second = chain.entered(i), chain.denses[j]
    widths = [*first["kernel"].shape[-2:], second["kernel"].shape[-1]]
    return cheapest_cuts(widths, ["bias" in first, "bias" in second]) == [0, 2]
