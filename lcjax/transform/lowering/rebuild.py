"""The tree of a function with segments replaced."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax.core import meta

from lcjax.algebra.sharding import rebox_dense
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.transform.ir.dead_code import find_dead_code
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.edits import collapse_links, narrow_links, remove_links
from lcjax.transform.lowering.execution_plan import fused_chain
from lcjax.transform.lowering.links import Link, LinkedChain, layers_of, linked_chains
from lcjax.transform.lowering.site_chains import SiteChain
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.entries import FusedEntry, NarrowSite, Run
from lcjax.transform.params.tree import FunctionParams, remove_leaves
from lcjax.tree.encoding import encode, strip_box_suffix
from lcjax.tree.fused_key import FusedKey


def rebuild_params(
    call: BoundCall, replacements: Mapping[Segment, Replacement]
) -> tuple[FunctionParams, tuple[str, ...]]:
    """Returns the tree with segments replaced, and the keys of its new entries.

    Raises:
      CollapseError: a site within a scan whose activation is to stay; a pair to remove that is not
        a whole chain.
    """
    linked = linked_chains(call)
    touched: dict[int, LinkedChain] = {}
    for segment, replacement in replacements.items():
        chain = linked[segment.sites[0]]
        touched[id(chain)] = chain
        if replacement.units is not None:
            narrow_links(call, chain, segment, replacement)
        elif replacement.layers:
            collapse_links(call, chain, segment, replacement)
        else:
            remove_links(chain, segment, replacement)
    paths = {path for path, chain in linked.items() if id(chain) in touched}
    params = call.params
    fused = {
        name: params.fused[name] for name, key in params.keys.items() if paths.isdisjoint(key.sites)
    }
    written = []
    for chain in touched.values():
        for name, entry, changed in _entries(call, chain):
            fused[name] = entry
            written += [name] * changed
    keeping = FunctionParams(params.model, {}, fused)
    slopes = {path: slope for path, slope in params.slopes.items() if path not in keeping.collapsed}
    rebuilt = FunctionParams(params.model, slopes, fused)
    model = remove_leaves(params.model, rebuilt.removed)
    return FunctionParams(model, slopes, fused), tuple(written)


def _entries(call: BoundCall, linked: LinkedChain) -> Iterable[tuple[str, Any, bool]]:
    """Yields the key and the entry of every part of a chain that is not the program's own.

    And whether it is new.
    """
    if linked.removed is not None:
        sites = _in_order(linked.links, linked.sites)
        chain = SiteChain(tuple(sites))
        entry = FusedEntry((), (NarrowSite(bypass=linked.removed),))
        units = tuple(None if site not in linked.sites else 0 for site in sites)
        yield str(_key(call, chain, entry, units)), _boxed(call, chain, entry), True
        return
    start = 0
    for place in range(len(linked.links)):
        last = place == len(linked.sites)
        if not last and linked.sites[place].path in linked.narrow:
            continue
        part = linked.links[start : place + 1]
        narrow = linked.sites[start:place]
        sites = _in_order(part, narrow)
        if sites:
            runs = tuple(tuple(layers_of(call, link)) for link in part)
            entry = FusedEntry(runs, tuple(linked.narrow[site.path] for site in narrow))
            chain = SiteChain(tuple(sites))
            yield _entry(call, chain, entry, narrow, any(link.changed for link in part))
        start = place + 1


def _in_order(links: Sequence[Link], between: Sequence[MatchedSite]) -> list[MatchedSite]:
    """Returns the sites in some links and between them, in forward order."""
    return [site for i, link in enumerate(links) for site in (*link.linear, *between[i : i + 1])]


def _entry(
    call: BoundCall,
    chain: SiteChain,
    entry: FusedEntry,
    narrow: list[MatchedSite],
    changed: bool,
) -> tuple[str, Any, bool]:
    if not changed:
        names = {key.sites: name for name, key in call.params.keys.items()}
        return names[chain.paths], call.params.fused[names[chain.paths]], False
    units: tuple[int | None, ...] = ()
    if narrow:
        counts = {
            site.path: run[-1]["kernel"].shape[-1]
            for site, run in zip(narrow, entry.runs, strict=False)
        }
        units = tuple(counts.get(path) for path in chain.paths)
    name = str(_key(call, chain, entry, units))
    return name, _boxed(call, chain, entry), True


def _key(
    call: BoundCall, chain: SiteChain, entry: FusedEntry, units: tuple[int | None, ...]
) -> FusedKey:
    """Returns the key of a chain's entry.

    Scalars of weak dtype (Python's) stay in the model: shape and dtype do not describe them fully.
    """
    own, paths, leaves = np.dtype(entry.dtype), call.trace.paths, call.leaves
    removed = {
        strip_box_suffix(paths[i]): (
            tuple(leaves[i].shape),
            None if leaves[i].dtype == own else leaves[i].dtype.name,
        )
        for i in sorted(_leaves(call, chain, units))
        if not jax.typeof(leaves[i]).weak_type
    }
    widths = tuple(site.widths[1] for site in chain.sites)
    return FusedKey(chain.paths, widths, removed, units)


def _leaves(call: BoundCall, chain: SiteChain, units: tuple[int | None, ...]) -> Iterable[int]:
    """Returns which leaves of the params only the layers that were replaced need, by index."""
    if not any(units):
        return chain.leaves
    counts = {path: k for path, k in zip(chain.paths, units, strict=True) if k}
    fused = fused_chain(call, chain, FusedEntry(()), counts)
    dead = find_dead_code([chain.last.last], fused.reads)
    return [i for i, leaf in enumerate(call.program.leaves) if leaf in dead]


def _boxed(call: BoundCall, chain: SiteChain, entry: FusedEntry) -> dict[str, Any]:
    """Returns an entry of the tree in boxes like those of the kernels, where those are matrices."""
    nodes = jax.tree_util.tree_leaves_with_path(call.params.model, is_leaf=meta.is_axis_metadata)
    boxes = {encode(keys): node for keys, node in nodes if meta.is_axis_metadata(node)}
    names = [call.name_of(dense.leaf) for dense in (chain.first, chain.last)]
    first, last = (boxes.get(strip_box_suffix(name)) for name in names)
    axes = 2 + len(chain.sites[0].stack)
    if first is None or last is None or not entry.runs:
        return entry.tree
    if any(meta.unbox(box).ndim != axes for box in (first, last)):
        return entry.tree
    runs = list(entry.runs)
    if len(runs) > 1:
        runs[0] = _reboxed(runs[0], first, first)
        runs[-1] = _reboxed(runs[-1], last, last)
    else:
        runs[0] = _reboxed(runs[0], first, last)
    return replace(entry, runs=tuple(runs)).tree


def _reboxed(run: Run, first: Any, last: Any) -> Run:
    if len(run) > 1:
        return run
    return tuple(rebox_dense(dict(each), {"kernel": first}, {"kernel": last}) for each in run)
