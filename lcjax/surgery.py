"""Collapse: from a variables tree to a smaller one that the same module runs."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict, freeze, meta

from lcjax.boxes import box_dense
from lcjax.chains import Chain, find_chains, join
from lcjax.errors import CollapseError
from lcjax.fuse import Norm, cheapest_cuts, fuse_dense
from lcjax.layers import NORM_EPSILON
from lcjax.paths import in_params, is_slope_path, leaf_path, natural
from lcjax.report import CollapseReport
from lcjax.selection import choose
from lcjax.sites import Site, Sites, find_sites, finite_gap

Choice = str | Site | Iterable[str | Site] | None


def collapse(
    variables: Mapping[str, Any],
    sites: Choice = None,
    *,
    threshold: float = 0.05,
    fit: str = "exact",
) -> tuple[Any, CollapseReport]:
    """Returns a smaller tree for the same module, and a report of what was done.

    Each chosen site's activation is taken for the identity, which is exact at slope 1 in inference
    (dropout and the update of batch statistics at a collapsed site are gone). Neighbouring Dense
    layers with no activation between them fuse, `W = W1 W2`, `b = b1 W2 + b2`, with a batch norm
    between them folded in; where one matrix would be larger than two, the cheapest factors stay.
    For relu the error of taking slope α for 1 is at most
    `gap · (‖W1‖₂ ‖x‖ + ‖b1‖) · ‖diag(s) W2‖₂`.

    The input is not changed. Untouched leaves are shared with it: donating one tree deletes the
    other's. In whatever order sites are collapsed the function is the same; so are the shapes,
    unless a chain's widths differ enough that its cheapest cut moves when more sites go.

    Args:
      variables: nested dicts: params alone, or variables with "params" and whatever else; plain or
        FrozenDict, leaves boxed or not; NumPy or JAX arrays of any float dtype, sharded or not.
      sites: paths, globs or Sites; None takes every site within the threshold. Under `jax.jit`
        they must be given, and gaps are not checked.
      threshold: largest accepted gap `|1 − α|`; dimensionless, at least 0; inf accepts any.
      fit: how the linear map is found; "exact" fuses as if the slope were 1.

    Returns:
      `(compact, report)`; compact has the type of variables.

    Raises:
      CollapseError: no site; a pattern that matches none; a named site over the threshold or
        unpaired; a slope that is not finite; a half-collapsed tree; kernels that do not compose; a
        norm whose statistics are not in the tree.
      ValueError: a threshold below 0, an unknown fit.
      TypeError: a tree that is not nested dicts.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
    """
    if fit != "exact":
        raise ValueError(f"fit is {fit!r}, must be 'exact'.")
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}, must be at least 0 (a gap |1 - slope|).")
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"collapse takes nested dicts (params or variables), got {type(variables).__name__}."
        )
    tree = _copied(variables)
    params = tree["params"] if "params" in tree else tree
    stats = tree.get("batch_stats", {}) if "params" in tree else {}
    found = find_sites(params)
    chosen, kept = _choose(found, sites, threshold)
    gaps, factors, before, after = {}, [], 0, 0
    for chain in find_chains(params):
        drop = [i for i in chain.acts if chain.site(i) in chosen]
        if drop:
            factors += _collapse_chain(chain, drop, params, stats)
            before += _flops([*chain.denses.values(), chain.gate or {}])
            node = _node(params, chain.path)
            after += _flops([node.get(chain.dense_name(i), {}) for i in chain.denses])
            gaps |= {chain.site(i): _gap(chain.acts[i]) for i in drop}
    _prune(stats)
    if "batch_stats" in tree and not stats:
        del tree["batch_stats"]
    old, new = _leaves(variables), _leaves(tree)
    report = CollapseReport(
        gaps=gaps,
        collapsed=tuple(path for path in found.paths if path in gaps),
        factors=tuple(sorted(factors, key=natural)),
        kept=tuple(kept),
        new=tuple(path for path in new if new[path] is not old.get(path)),
        dropped=tuple(path for path in old if path not in new),
        parameters_before=_count(old),
        parameters_after=_count(new),
        flops_before=before,
        flops_after=after,
    )
    return (freeze(tree) if isinstance(variables, FrozenDict) else tree), report


def abstract_collapse(variables: Mapping[str, Any], sites: Choice) -> tuple[Any, CollapseReport]:
    """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed.

    Where the input's leaves have shardings, so have the result's.

    Args:
      variables: as for `collapse`, of arrays or ShapeDtypeStructs.
      sites: paths, globs or Sites; they must be given, since abstract slopes have no gap.

    Raises:
      CollapseError: as `collapse`, but for gaps.
    """

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
        )

    return collapse(jax.tree.map(shape, variables), sites)


def _choose(found: Sites, sites: Choice, threshold: float) -> tuple[set[str], list]:
    """Returns the paths to collapse, and the sites that stay, each with the reason."""
    if sites is None:
        choose(found.paths)  # raises where there is no site
        if any(site.gap is None for site in found):
            raise CollapseError(
                "sites must be given where slopes are abstract or traced (under jit, or with "
                "ShapeDtypeStructs): their gaps cannot be seen."
            )
        paired = [site for site in found if site.paired]
        chosen = {site.path for site in paired if finite_gap(site) <= threshold}
        return chosen, [
            (site.path, f"gap {site.gap:.4f} over {threshold:g}" if site.paired else "unpaired")
            for site in found
            if site.path not in chosen
        ]
    names = [sites] if isinstance(sites, (str, Site)) else list(sites)
    names = [name.path if isinstance(name, Site) else name for name in names]
    chosen = set(choose(found.paths, sites=names))
    for site in found:
        if site.path in chosen:
            _check_named(site, threshold)
    return chosen, [(site.path, "not asked for") for site in found if site.path not in chosen]


def _check_named(site: Site, threshold: float) -> None:
    if not site.paired:
        raise CollapseError(
            f"{site.path}: unpaired, it stands in no chain of Dense layers, so there is nothing "
            "to fuse. Build the pair with lcjax.CollapsibleMLP."
        )
    if site.gap is not None and finite_gap(site) > threshold:
        raise CollapseError(
            f"{site.path}: gap is {site.gap:.4g} (slope {site.slope:.4g}), over the threshold "
            f"{threshold:g}. Train on with lcjax.collapsing, or raise the threshold."
        )


def _collapse_chain(chain: Chain, drop: list[int], params: Any, stats: Any) -> list[str]:
    """Rewrites one chain's node in params and stats; returns the sites that stay factors."""
    node, node_stats = _node(params, chain.path), _node(stats, chain.path)
    boxed = {i: node[chain.dense_name(i)] for i in chain.denses}
    normed = [i for i in drop if i in chain.norms or f"norm_{i}" in node_stats]
    norms = {chain.after(i): _norm(chain, i, node_stats) for i in normed}
    for i in drop:
        for name in (chain.act_name(i), f"norm_{i}"):
            node.pop(name, None)
            node_stats.pop(name, None)
    if chain.gate is not None:
        node.pop("gate")
    factors = []
    for run in _runs(chain, set(drop)):
        kernels = [chain.denses[i]["kernel"] for i in run]
        cuts = cheapest_cuts([kernels[0].shape[-2], *(kernel.shape[-1] for kernel in kernels)])
        for start, end in pairwise(cuts):
            part = run[start:end]
            inside = [norms.get(i) for i in part]
            if len(part) > 1 or inside != [None]:
                fused = fuse_dense([chain.denses[i] for i in part], inside)
                node[chain.dense_name(part[-1])] = box_dense(fused, boxed[part[0]], boxed[part[-1]])
            for i in part[:-1]:
                node.pop(chain.dense_name(i))
        factors += [chain.site(run[cut - 1]) for cut in cuts[1:-1] if run[cut - 1] in drop]
    return factors


def _runs(chain: Chain, drop: set[int]) -> list[list[int]]:
    """Returns the runs that a drop makes: neighbouring Denses with no activation between them."""
    runs, run = [], []
    for i in chain.denses:
        run.append(i)
        if i in chain.acts and i not in drop:
            runs.append(run)
            run = []
    return [run for run in [*runs, run] if drop.intersection(run)]


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
    sizes = (
        math.prod(meta.unbox(leaf).shape)
        for path, leaf in leaves.items()
        if not is_slope_path(path)
    )
    return sum(sizes)


def _flops(denses: Iterable[Mapping[str, Any]]) -> int:
    kernels = [meta.unbox(dense["kernel"]) for dense in denses if dense]
    return 2 * sum(math.prod(kernel.shape) for kernel in kernels)


def _gap(slope: Any) -> Any:
    if isinstance(slope, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(slope.shape, jnp.float32)
    return jnp.abs(1 - jnp.asarray(slope)).astype(jnp.float32)
