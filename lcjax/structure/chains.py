"""Chains of Dense layers in a params tree, found by the names of their children."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax.core import meta

from lcjax.algebra.bypasses import stack_dense
from lcjax.algebra.fuse import DenseParams, cheapest_cuts, dense_flops
from lcjax.errors import CollapseError
from lcjax.tree.paths import natural_sort_key
from lcjax.tree.units import of_units

_DENSE, _ACT = re.compile(r"dense_(\d+)(_in)?"), re.compile(r"act_(\d+)")
_BYPASS = re.compile(r"bypass_(\d+)")
_OF_GATED = {-0.5: "up_in", 0: "up", 0.5: "down_in", 1: "down"}
_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


@dataclass(frozen=True)
class Chain:
    """The children of one CollapsibleMLP or CollapsibleGLU, unboxed.

    Attributes:
      path: of the module inside params; "" at the root.
      denses: the Dense layers in the tree in forward order, each by its index; for a gated unit 0
        is `up` and 1 is `down`. The factor that a collapse put before Dense i is at i - 0.5.
      acts: slope of every activation in the tree, or its slopes for each unit, by the index of the
        Dense before it.
      norms: params of every norm in the tree, by the index of the Dense before it.
      gate: params of the gate, where the chain is a gated unit.
      gate_in: params of the factor that a collapse put before the gate; None for none.
      bypasses: params of every bypass in the tree, by the index of the Dense whose input it reads;
        its output is added to that of the next Dense.
    """

    path: str
    denses: dict[float, DenseParams]
    acts: dict[int, Any]
    norms: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    gate: DenseParams | None = None
    bypasses: dict[int, DenseParams] = field(default_factory=dict)
    gate_in: DenseParams | None = None

    def dense_name(self, i: float) -> str:
        """Returns the name of the child that is Dense i."""
        if self.gate is not None:
            return _OF_GATED[i]
        whole = math.ceil(i)
        return f"dense_{whole}" if i == whole else factor_before(f"dense_{whole}")

    @property
    def gates(self) -> dict[str, DenseParams]:
        """The gate of a gated unit and the factor before it, by their names, in forward order."""
        both = {"gate_in": self.gate_in, "gate": self.gate}
        return {name: params for name, params in both.items() if params is not None}

    def act_name(self, i: int) -> str:
        """Returns the name of the child that is activation i."""
        return f"act_{i}" if self.gate is None else "act"

    def bypass_name(self, i: int) -> str:
        """Returns the name of the child that is the bypass of the pair around activation i."""
        return f"bypass_{i}" if self.gate is None else "bypass"

    def site(self, i: int) -> str:
        """Returns the path of the site whose activation is i."""
        return join(self.path, self.act_name(i))

    @property
    def sites(self) -> tuple[str, ...]:
        """The paths of its sites, in forward order."""
        return tuple(map(self.site, self.acts))

    @property
    def children(self) -> tuple[str, ...]:
        """The paths of all modules that belong to it, in params or in batch_stats."""
        names = [*map(self.dense_name, self.denses), *map(self.act_name, self.acts)]
        names += [*(f"norm_{i}" for i in self.acts), *self.gates]
        names += map(self.bypass_name, self.bypasses)
        return tuple(join(self.path, name) for name in names)

    @property
    def flops(self) -> int:
        """Multiply-adds times two for one token through its kernels."""
        parts = (self.denses, self.gates, self.bypasses)
        return dense_flops([dense for part in parts for dense in part.values()])

    def before(self, j: float) -> float | None:
        """Returns the index of the bypass that is added to the output of Dense j, if there is one.

        It is of the pair whose last Dense j is.
        """
        i = max((i for i in self.denses if i < j), default=None)
        return i if i in self.bypasses else None

    def entered(self, j: float) -> DenseParams:
        """Returns Dense j with the bypass that is added to its output."""
        i = self.before(j)
        if i is None:
            return self.denses[j]
        return stack_dense(self.bypasses[int(i)], self.denses[j])

    def after(self, i: float) -> float:
        """Returns the index of the Dense after Dense i."""
        return min(j for j in self.denses if j > i)

    def widths(self, i: int) -> tuple[int, int, int]:
        """Returns (d_in, d_hidden, d_out) of the Dense pair around activation i."""
        first, second = self.denses[i]["kernel"], self.denses[self.after(i)]["kernel"]
        return first.shape[-2], first.shape[-1], second.shape[-1]


def factor_before(dense: str) -> str:
    """Returns the name of the factor before a Dense, of a kernel that is two of them.

    Example:
      >>> factor_before("dense_0")
      'dense_0_in'
    """
    return f"{dense}_in"


def join(path: str, child: str) -> str:
    """Returns the path of a child; the root's path is empty."""
    return f"{path}/{child}" if path else child


def bypass_of(site: str) -> str:
    """Returns the path of the bypass of the pair around a site.

    Example:
      >>> bypass_of("block_3/mlp/act_0")
      'block_3/mlp/bypass_0'
    """
    path, _, name = site.rpartition("/")
    return join(path, name.replace("act", "bypass", 1))


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
        _check(chain)
    return [part for chain in chains for part in _split(chain)]


def _gated(path: str, node: Mapping[str, Any]) -> Chain | None:
    """Returns the chain of a CollapsibleGLU, if a node is one."""
    if not all(_has(node.get(name), "kernel") for name in ("gate", "up", "down")):
        return None
    if not _has(node.get("act"), "slope"):
        return None
    denses = {i: node[name] for i, name in _OF_GATED.items() if _has(node.get(name), "kernel")}
    bypasses = {0: node["bypass"]} if _has(node.get("bypass"), "bias") else {}
    acts, gate_in = {0: node["act"]["slope"]}, node.get("gate_in")
    return Chain(path, denses, acts, {}, node["gate"], bypasses, gate_in)


def _mlp(path: str, node: Mapping[str, Any]) -> Chain | None:
    """Returns the chain of a CollapsibleMLP, if a node is one."""
    acts = {int(m[1]): node[name] for name in node if (m := _ACT.fullmatch(str(name)))}
    acts = {i: act["slope"] for i, act in sorted(acts.items()) if _has(act, "slope")}
    found = ((_DENSE.fullmatch(str(name)), name) for name in node)
    named = {int(m[1]) - (0.5 if m[2] else 0): node[name] for m, name in found if m}
    denses = {i: dense for i, dense in sorted(named.items()) if _has(dense, "kernel")}
    if not acts or not denses:
        return None
    norms = {i: node[f"norm_{i}"] for i in acts if f"norm_{i}" in node}
    bypasses = {int(m[1]): node[name] for name in node if (m := _BYPASS.fullmatch(str(name)))}
    bypasses = {i: bypass for i, bypass in sorted(bypasses.items()) if _has(bypass, "bias")}
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
    if not _compose(chain.denses[i], chain.denses[j]):
        return True
    first, second = chain.entered(i), chain.denses[j]
    widths = [*first["kernel"].shape[-2:], second["kernel"].shape[-1]]
    return cheapest_cuts(widths, ["bias" in first, "bias" in second]) == [0, 2]


def _compose(first: DenseParams, second: DenseParams) -> bool:
    before, after = first["kernel"].shape, second["kernel"].shape
    return before[:-2] == after[:-2] and before[-1] == after[-2]


def _check(chain: Chain) -> None:
    for i, dense in chain.denses.items():
        _check_dense(join(chain.path, chain.dense_name(i)), dense)
    for i, slope in chain.acts.items():
        _check_site(chain, i, slope)
    denses = list(chain.denses)
    for i, j in zip(denses, denses[1:], strict=False):
        first, second = chain.denses[i]["kernel"].shape, chain.denses[j]["kernel"].shape
        if (i in chain.acts or math.ceil(i) == j) and not _compose(chain.denses[i], chain.denses[j]):
            raise CollapseError(
                f"{join(chain.path, chain.dense_name(j))}: kernel {tuple(second)} does not compose "
                f"with {chain.dense_name(i)}'s kernel {tuple(first)}: their inner widths differ."
            )
    for i, bypass in chain.bypasses.items():
        _check_bypass(chain, i, bypass)


def _check_bypass(chain: Chain, i: int, bypass: DenseParams) -> None:
    path = join(chain.path, chain.bypass_name(i))
    if i not in chain.acts:
        raise CollapseError(
            f"{path}: found without {chain.act_name(i)}: the tree is half collapsed. Restore a "
            "tree that lcjax.collapse made."
        )
    d_in, _, d_out = chain.widths(i)
    shapes = {name: tuple(leaf.shape) for name, leaf in bypass.items()}
    expected = {name: {"bias": (d_out,), "kernel": (d_in, d_out)}[name] for name in shapes}
    if shapes != expected or "bias" in chain.denses[chain.after(i)]:
        raise CollapseError(
            f"{path}: got {shapes}, expected {expected}, and no bias in "
            f"{chain.dense_name(chain.after(i))}: the tree is half collapsed. Restore a tree that "
            "lcjax.collapse made."
        )


def _check_dense(path: str, dense: DenseParams) -> None:
    if len(shape := dense["kernel"].shape) < 2:
        raise CollapseError(
            f"{path}: got a kernel of shape {tuple(shape)}, expected two axes or more, those of a "
            "Dense."
        )
    for leaf in ("kernel", "bias"):
        if leaf in dense and not isinstance(dense[leaf], _ARRAYS):
            kind = type(dense[leaf])
            nnx = kind.__module__.startswith("flax.nnx")
            remedy = "If it is quantized, dequantize it before the collapse."
            raise CollapseError(
                f"{path}/{leaf}: got a {kind.__name__}, expected an array of NumPy or JAX. "
                + ("Pass nnx.to_pure_dict(state)." if nnx else remedy)
            )


def _check_site(chain: Chain, i: int, slope: Any) -> None:
    if i not in chain.denses or i >= max(chain.denses):
        missing = f"dense_{i}" if i not in chain.denses else "a later dense_i"
        raise CollapseError(
            f"{chain.site(i)}: expected {missing} with it: the tree is half collapsed. Restore a "
            "tree that lcjax.collapse or init made."
        )
    kernel, shape = tuple(chain.denses[i]["kernel"].shape), tuple(slope.shape)
    if shape != kernel[:-2] and not of_units(shape, kernel):
        raise CollapseError(
            f"{chain.site(i)}: got a slope of shape {shape}, expected {kernel[:-2]}, the leading "
            f"axes of {chain.dense_name(i)}'s kernel {kernel}, or {(*kernel[:-2], kernel[-1])}. "
            "Give one slope for each layer that the kernel stacks, or for each unit of each layer."
        )
