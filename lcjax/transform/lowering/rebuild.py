"""The tree of a function with chains of sites replaced."""

from collections.abc import Sequence
from typing import Any

import jax
from flax.core import meta

from lcjax.algebra.fuse import DenseParams
from lcjax.algebra.sharding import rebox_dense
from lcjax.errors import CollapseError
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.site_chains import SiteChain
from lcjax.transform.params.keys import FusedKey, encode, strip_box_suffix
from lcjax.transform.params.tree import FunctionParams, entry_of, remove_leaves

Replaced = Sequence[tuple[Segment, SiteChain, Replacement]]


def rebuild_params(call: BoundCall, replaced: Replaced) -> tuple[FunctionParams, tuple[str, ...]]:
    """Returns the tree with segments replaced, and the keys of its new entries.

    Raises:
      CollapseError: a replacement that keeps an activation.
    """
    params = call.params
    inside = {path for _, chain, _ in replaced for path in chain.paths}
    fused = {
        name: params.fused[name]
        for name, key in params.keys.items()
        if inside.isdisjoint(key.sites)
    }
    written = []
    for segment, chain, replacement in replaced:
        _check_collapsed(segment, replacement)
        factors = replacement.layers_for(segment)
        name = str(_key(chain, factors, call))
        fused[name] = _boxed(entry_of(factors), chain, call)
        written.append(name)
    slopes = {path: slope for path, slope in params.slopes.items() if path not in inside}
    rebuilt = FunctionParams(params.model, slopes, fused)
    model = remove_leaves(params.model, rebuilt.removed)
    return FunctionParams(model, slopes, fused), tuple(written)


def _check_collapsed(segment: Segment, replacement: Replacement) -> None:
    if set(replacement.collapsed) != set(segment.sites):
        raise CollapseError(
            f"{segment.label}: got a replacement that keeps an activation, but the tree of a "
            "function holds only sites that are collapsed. Take a fit that collapses them."
        )


def _boxed(entry: dict[str, Any], chain: SiteChain, call: BoundCall) -> dict[str, Any]:
    """Returns a fused Dense in boxes like those of the kernels, if these are boxed matrices."""
    nodes = jax.tree_util.tree_leaves_with_path(call.params.model, is_leaf=meta.is_axis_metadata)
    boxes = {encode(keys): node for keys, node in nodes if meta.is_axis_metadata(node)}
    names = [call.name_of(dense.leaf) for dense in (chain.first, chain.last)]
    first, last = (boxes.get(strip_box_suffix(name)) for name in names)
    if first is None or last is None or "kernel" not in entry:
        return entry
    axes = 2 + len(chain.sites[0].stack)
    if any(meta.unbox(box).ndim != axes for box in (first, last)):
        return entry
    return rebox_dense(entry, {"kernel": first}, {"kernel": last})


def _key(chain: SiteChain, factors: Sequence[DenseParams], call: BoundCall) -> FusedKey:
    """Returns the key of a chain's entry.

    Scalars of weak dtype (Python's) stay in the model: shape and dtype do not describe them fully.
    """
    own, paths, leaves = factors[-1]["kernel"].dtype, call.trace.paths, call.leaves
    removed = {
        paths[i]: (
            tuple(leaves[i].shape),
            None if leaves[i].dtype == own else leaves[i].dtype.name,
        )
        for i in chain.leaves
        if not jax.typeof(leaves[i]).weak_type
    }
    return FusedKey(chain.paths, tuple(site.widths[1] for site in chain.sites), removed)
