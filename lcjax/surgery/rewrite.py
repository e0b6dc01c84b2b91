"""Rewrites a variables tree: runs give way to what replaces them, and what became void goes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict, freeze, meta

from lcjax.algebra.boxes import box_dense
from lcjax.algebra.fuse import Norm
from lcjax.errors import CollapseError
from lcjax.nn.mlp import NORM_EPSILON
from lcjax.structure.chains import Chain, find_chains, join
from lcjax.structure.runs import Run, runs_of
from lcjax.surgery.checks import replaced
from lcjax.surgery.replacement import Replace
from lcjax.surgery.report import CollapseReport, SegmentFit
from lcjax.tree.paths import in_params, leaf_path, natural_sort_key, slope_paths


def rewrite(
    variables: Mapping[str, Any],
    chosen: set[str],
    kept: list[tuple[str, str]],
    replace: Replace,
) -> tuple[Any, CollapseReport]:
    """Returns the tree without the chosen sites, and the report; the input is not changed.

    Args:
      variables: nested dicts: params alone, or whole variables.
      chosen: paths of the sites that go.
      kept: the sites that stay, each with the reason; for the report.
      replace: says what takes the place of a run.
    """
    tree = _copied(variables)
    params = tree["params"] if "params" in tree else tree
    stats = tree.get("batch_stats", {}) if "params" in tree else {}
    gaps, factors, fits, before, after = {}, [], [], 0, 0
    for chain in find_chains(params):
        runs = runs_of(chain, chosen)
        if runs:
            _check_stacked(chain)
            told, parted = _rewrite_chain(chain, runs, params, stats, replace)
            fits += told
            factors += parted
            before += chain_flops(chain)
            node = _node(params, chain.path)
            after += _flops([node.get(chain.dense_name(i), {}) for i in chain.denses])
            gaps |= {chain.site(i): _gap(chain.acts[i]) for run in runs for i in run.acts}
    _prune(stats)
    if "batch_stats" in tree and not stats:
        del tree["batch_stats"]
    old, new = _leaves(variables), _leaves(tree)
    report = CollapseReport(
        gaps=gaps,
        collapsed=tuple(sorted(gaps, key=natural_sort_key)),
        factors=tuple(sorted(factors, key=natural_sort_key)),
        kept=tuple(kept),
        new=tuple(path for path in new if new[path] is not old.get(path)),
        dropped=tuple(path for path in old if path not in new),
        parameters_before=_count(old),
        parameters_after=_count(new),
        flops_before=before,
        flops_after=after,
        fits=tuple(fits),
    )
    return (freeze(tree) if isinstance(variables, FrozenDict) else tree), report


def chain_flops(chain: Chain) -> int:
    """Returns multiply-adds times two for one token through a chain's kernels."""
    return _flops([*chain.denses.values(), chain.gate or {}])


def _rewrite_chain(
    chain: Chain, runs: list[Run], params: Any, stats: Any, replace: Replace
) -> tuple[list[SegmentFit], list[str]]:
    """Rewrites one chain's node in params and stats; returns fits, and sites that stay factors."""
    node, node_stats = _node(params, chain.path), _node(stats, chain.path)
    boxed = {i: node[chain.dense_name(i)] for i in chain.denses}
    dropped = [i for run in runs for i in run.acts]
    normed = [i for i in dropped if i in chain.norms or f"norm_{i}" in node_stats]
    norms = {chain.after(i): _norm(chain, i, node_stats) for i in normed}
    for i in dropped:
        for name in (chain.act_name(i), f"norm_{i}"):
            node.pop(name, None)
            node_stats.pop(name, None)
    if chain.gate is not None:
        node.pop("gate")
    told, factors = [], []
    for run in runs:
        parts, fits = replaced(replace, chain, run, norms)
        told += fits
        for members, dense in parts:
            for i in members[:-1]:
                node.pop(chain.dense_name(i))
            if dense is not None:
                name = chain.dense_name(members[-1])
                node[name] = box_dense(dict(dense), boxed[members[0]], boxed[members[-1]])
        parted = [members[-1] for members, _ in parts[:-1]]
        factors += [chain.site(i) for i in parted if i in run.acts]
    return told, factors


def _check_stacked(chain: Chain) -> None:
    """Raises where nothing tells which axis of the kernels counts the layers."""
    shapes = [tuple(dense["kernel"].shape) for dense in chain.denses.values()]
    if len(shapes[0]) > 2 and len({size for shape in shapes for size in shape}) == 1:
        raise CollapseError(
            f"{join(chain.path, chain.dense_name(min(chain.denses)))}: got kernels {shapes[0]} of "
            "stacked layers whose widths all equal the number of layers, so that the layers may be "
            "along any axis; expected them along the first. Unstack them with "
            "lcjax.unstack_layers(variables, path, axis=...), and collapse that."
        )


def _norm(chain: Chain, i: int, stats: Mapping[str, Any]) -> Norm:
    name = f"norm_{i}"
    if name not in stats:
        raise CollapseError(
            f"{join(chain.path, name)}: its running statistics are not in the tree. Pass the whole "
            "variables, with batch_stats, not params alone."
        )
    return Norm(chain.norms.get(i, {}), meta.unbox(stats[name]), NORM_EPSILON)


def _copied(tree: Any) -> Any:
    """Returns nested mappings as new plain dicts that share the leaves."""
    if isinstance(tree, Mapping):
        return {name: _copied(child) for name, child in tree.items()}
    return tree


def _node(tree: Any, path: str) -> Any:
    for name in path.split("/") if path else ():
        tree = tree.get(name, {})
    return tree


def _prune(tree: dict[str, Any]) -> None:
    for name, child in list(tree.items()):
        if isinstance(child, dict):
            _prune(child)
            if not child:
                del tree[name]


def _leaves(variables: Any) -> dict[str, Any]:
    """Returns the leaves of the params by path."""
    params = variables["params"] if "params" in variables else variables
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {in_params(leaf_path(keys)): leaf for keys, leaf in flat}


def _count(leaves: Mapping[str, Any]) -> int:
    slopes = slope_paths(leaves)
    return sum(
        math.prod(meta.unbox(leaf).shape) for path, leaf in leaves.items() if path not in slopes
    )


def _flops(denses: Iterable[Mapping[str, Any]]) -> int:
    kernels = [meta.unbox(dense["kernel"]) for dense in denses if dense]
    return 2 * sum(math.prod(kernel.shape) for kernel in kernels)


def _gap(slope: Any) -> Any:
    if isinstance(slope, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(slope.shape, jnp.float32)
    return jnp.abs(1 - jnp.asarray(slope)).astype(jnp.float32)
