"""The chains of Dense layers that stand in a params tree, found by the names of their children."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax.core import meta

from lcjax.algebra.fuse import cheapest_cuts
from lcjax.errors import CollapseError
from lcjax.tree.paths import natural_sort_key

_DENSE, _ACT = re.compile(r"dense_(\d+)"), re.compile(r"act_(\d+)")
_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
_GLU = ("gate", "up", "act", "down")


@dataclass(frozen=True)
class Chain:
    """The children of one CollapsibleMLP or CollapsibleGLU, unboxed.

    Attributes:
      path: of the module inside params; "" at the root.
      denses: the Dense layers that are held, each by its index; for a gated unit 0 is `up` and 1
        is `down`.
      acts: slope of every activation that is held, by index.
      norms: params of every norm that is held, by index.
      gate: params of the gate where the chain is a gated unit that holds one.
    """

    path: str
    denses: dict[int, Mapping[str, Any]]
    acts: dict[int, Any]
    norms: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    gate: Mapping[str, Any] | None = None

    def dense_name(self, i: int) -> str:
        """Returns the name of the child that is Dense i."""
        return f"dense_{i}" if self.gate is None else ("up", "down")[i]

    def act_name(self, i: int) -> str:
        """Returns the name of the child that is activation i."""
        return f"act_{i}" if self.gate is None else "act"

    def site(self, i: int) -> str:
        """Returns the path of the site whose activation is i."""
        return join(self.path, self.act_name(i))

    def after(self, i: int) -> int:
        """Returns the index of the next Dense that is held after Dense i."""
        return min(j for j in self.denses if j > i)

    def widths(self, i: int) -> tuple[int, int, int]:
        """Returns (d_in, d_hidden, d_out) of the Dense pair around activation i."""
        first, second = self.denses[i]["kernel"], self.denses[self.after(i)]["kernel"]
        return first.shape[-2], first.shape[-1], second.shape[-1]


def join(path: str, child: str) -> str:
    """Returns the path of a child; the root's path is empty."""
    return f"{path}/{child}" if path else child


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields every mapping in a tree of mappings with its path, in natural order."""
    if isinstance(tree, Mapping):
        yield path, tree
        for name in sorted(tree, key=lambda name: natural_sort_key(str(name))):
            yield from nodes(tree[name], join(path, str(name)))


def find_chains(params: Any) -> list[Chain]:
    """Returns every chain that holds a collapsible activation, in natural order of paths.

    Raises:
      CollapseError: when a chain is half collapsed or its kernels do not compose; names the path.
    """
    chains = []
    for path, node in nodes(meta.unbox(params)):
        acts = {int(m[1]): node[name] for name in node if (m := _ACT.fullmatch(str(name)))}
        acts = {i: act["slope"] for i, act in acts.items() if _holds(act, "slope")}
        if all(_holds(node.get(n), "kernel") for n in _GLU if n != "act"):
            if _holds(node.get("act"), "slope"):
                denses = {0: node["up"], 1: node["down"]}
                slope = {0: node["act"]["slope"]}
                chains.append(Chain(path, denses, slope, gate=node["gate"]))
        denses = {int(m[1]): node[name] for name in node if (m := _DENSE.fullmatch(str(name)))}
        denses = {i: dense for i, dense in sorted(denses.items()) if _holds(dense, "kernel")}
        if acts and denses:
            norms = {i: node[f"norm_{i}"] for i in acts if f"norm_{i}" in node}
            chains.append(Chain(path, denses, dict(sorted(acts.items())), norms))
    for chain in chains:
        _check(chain)
    return [part for chain in chains for part in _parted(chain)]


def _holds(node: Any, leaf: str) -> bool:
    return isinstance(node, Mapping) and leaf in node and not isinstance(node[leaf], Mapping)


def _parted(chain: Chain) -> list[Chain]:
    """Returns a chain without Denses of other modules that share its scope and have such names.

    Two Denses with no activation between them are factors that a collapse kept, since one matrix
    would be larger. Where it would not, or they do not compose, one is no part of the chain.
    """
    groups: list[list[int]] = [[]]
    for i in chain.denses:
        if groups[-1] and _strangers(chain, groups[-1][-1], i):
            groups.append([])
        groups[-1].append(i)
    if len(groups) == 1:
        return [chain]
    parts = []
    for group in groups:
        acts = {i: chain.acts[i] for i in group if i in chain.acts}
        norms = {i: chain.norms[i] for i in acts if i in chain.norms}
        if acts:
            denses = {i: chain.denses[i] for i in group}
            parts.append(Chain(chain.path, denses, acts, norms))
    return parts


def _strangers(chain: Chain, i: int, j: int) -> bool:
    """Tells whether two Denses, one after the other by their names, are not of one chain."""
    if i in chain.acts:
        return False
    first, second = chain.denses[i], chain.denses[j]
    if not _compose(first, second):
        return True
    widths = [*first["kernel"].shape[-2:], second["kernel"].shape[-1]]
    return cheapest_cuts(widths, ["bias" in first, "bias" in second]) == [0, 2]


def _compose(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    before, after = first["kernel"].shape, second["kernel"].shape
    return before[:-2] == after[:-2] and before[-1] == after[-2]


def _check(chain: Chain) -> None:
    for i, dense in chain.denses.items():
        if len(shape := dense["kernel"].shape) < 2:
            raise CollapseError(
                f"{join(chain.path, chain.dense_name(i))}: got a kernel of shape {tuple(shape)}, "
                "expected two axes or more, those of a Dense."
            )
        for leaf in ("kernel", "bias"):
            if leaf in dense and not isinstance(dense[leaf], _ARRAYS):
                kind = type(dense[leaf])
                nnx = kind.__module__.startswith("flax.nnx")
                remedy = "If it is quantized, dequantize it before the collapse."
                raise CollapseError(
                    f"{join(chain.path, chain.dense_name(i))}/{leaf}: got a {kind.__name__}, "
                    "expected an array of NumPy or JAX. "
                    + ("Pass nnx.to_pure_dict(state)." if nnx else remedy)
                )
    for i, slope in chain.acts.items():
        if i not in chain.denses or i >= max(chain.denses):
            missing = f"dense_{i}" if i not in chain.denses else "a later dense_i"
            raise CollapseError(
                f"{chain.site(i)}: held without {missing}: the tree is half collapsed. "
                "Restore a tree that lcjax.collapse or init made."
            )
        stack = chain.denses[i]["kernel"].shape[:-2]
        if tuple(slope.shape) != tuple(stack):
            raise CollapseError(
                f"{chain.site(i)}: slope has shape {tuple(slope.shape)}, wanted {tuple(stack)}, "
                f"the leading axes of {chain.dense_name(i)}'s kernel "
                f"{tuple(chain.denses[i]['kernel'].shape)}."
            )
    held = list(chain.denses)
    for i, j in zip(held, held[1:], strict=False):
        first, second = chain.denses[i]["kernel"].shape, chain.denses[j]["kernel"].shape
        if i in chain.acts and not _compose(chain.denses[i], chain.denses[j]):
            raise CollapseError(
                f"{join(chain.path, chain.dense_name(j))}: kernel {tuple(second)} does not compose "
                f"with {chain.dense_name(i)}'s kernel {tuple(first)}: their inner widths differ."
            )
