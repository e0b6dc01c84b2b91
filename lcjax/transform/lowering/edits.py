"""Replacements written into the layers of a chain."""

from collections.abc import Sequence

import numpy as np

from lcjax.algebra.bypasses import follow_dense, split_dense
from lcjax.algebra.fuse import DenseParams, fuse_dense
from lcjax.algebra.sharding import take_units
from lcjax.errors import CollapseError
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.transform.ir.program import blocks_around
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.links import (
    Link,
    LinkedChain,
    dense_params,
    gates_beside,
    layers_of,
)
from lcjax.transform.lowering.weights import vector
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.unit_path import UnitPath, unit_path
from lcjax.transform.params.entries import NarrowSite, Run


def narrow_links(
    call: BoundCall, linked: LinkedChain, segment: Segment, replacement: Replacement
) -> None:
    """Writes a replacement that keeps some hidden units of one site.

    The units are cut from the layer before as the chain has it by now, so that neighbouring sites
    are written one after another in forward order.

    Raises:
      CollapseError: a site within a scan; no units; an operation that needs all units.
    """
    (path,) = segment.sites
    assert replacement.units is not None
    place, units = linked.index(path), np.asarray(replacement.units)
    site, width = linked.sites[place], segment.layers[-1]["kernel"].shape[-2]
    layers = [layer.params for layer in replacement.layers]
    last = layers[-1] if layers else None
    if last is None or len(units) != last["kernel"].shape[-2] or not 0 < len(units) <= width:
        raise CollapseError(
            f"{path}: got {len(units)} units and layers {_shapes(layers)}, expected from 1 to "
            f"{width} units and a last kernel with a row for each. Take Remove() to keep none."
        )
    before, after = linked.links[place], linked.links[place + 1]
    stays = _narrowed(call, linked, place, units)
    run = layers_of(call, before)
    columns = units if path in linked.narrow else _columns(call, site)[units]
    run[-1] = {name: take_units(each, columns) for name, each in run[-1].items()}
    bypass = linked.bypass_into(place)
    if bypass is not None and len(run) == 1:
        previous = linked.sites[place - 1].path
        cut = {name: take_units(each, columns) for name, each in bypass.items()}
        linked.narrow[previous] = linked.narrow[previous]._replace(bypass=cut)
    linked.narrow[path] = stays._replace(bypass=replacement.bypass)
    before.run, before.changed = run, True
    after.run, after.changed = [last, *layers_of(call, after)[1:]], True


def collapse_links(
    call: BoundCall, linked: LinkedChain, segment: Segment, replacement: Replacement
) -> None:
    """Writes a replacement of whole layers, which collapses all or some activations of a segment.

    A pair's own layers are written between the factors around it, which stay; a first factor of the
    pair's is multiplied with the one before it.

    Raises:
      CollapseError: a site within a scan whose activation stays.
    """
    new = (*replacement.layers, *replacement.gates)
    if not replacement.collapsed and all(layer.params is None for layer in new):
        return
    running = {site.path: i for i, site in enumerate(linked.sites)}
    places = [running[path] for path in segment.sites]
    start, end = min(places), max(places) + 1
    runs: list[list[DenseParams]] = [[]]
    kept: list[MatchedSite] = []
    for layer, params in zip(replacement.layers, replacement.layers_for(segment), strict=True):
        runs[-1] += [params] if layer.factor is None else [layer.factor, params]
        joints = segment.joints[layer.replaces[-1] :][:1]
        if joints and joints[0].site not in (None, *replacement.collapsed):
            kept.append(linked.sites[running[joints[0].site]])
            runs.append([])
    if segment.entry is not None:
        runs[0][0] = _take_bypass(linked, start, segment.entry.width, runs[0][0])
    ahead, behind = linked.covered(start, end, len(segment.layers))
    outer = layers_of(call, linked.links[start])[:ahead]
    narrow = {}
    for site in kept:
        width = segment.layers[_layer_after(segment, site.path)]["kernel"].shape[-2]
        stays = _narrowed(call, linked, running[site.path], np.arange(width))
        if site is linked.sites[start]:
            stays = stays._replace(gate=_gate(call, linked, start, replacement, outer, stays.gate))
        if replacement.bypass is not None:
            stays = stays._replace(bypass=replacement.bypass)
        narrow[site.path] = stays
    if outer and replacement.layers[0].factor is not None:
        outer = _followed(linked, start, outer, runs[0].pop(0))
    runs[0] = [*outer, *runs[0]]
    if behind:
        runs[-1] += layers_of(call, linked.links[end])[-behind:]
    links, collapsed = [Link([], [])], linked.sites[start:end]
    for link, site in zip(linked.links[start : end + 1], [None, *collapsed], strict=True):
        if site in kept:
            links.append(Link([], []))
        elif site is not None:
            links[-1].linear.append(site)
            linked.narrow.pop(site.path, None)
        links[-1].denses += link.denses
        links[-1].linear += link.linear
    for link, run in zip(links, runs, strict=True):
        link.run, link.changed = run, True
    linked.narrow |= narrow
    linked.links[start : end + 1], linked.sites[start:end] = links, kept


def remove_links(linked: LinkedChain, segment: Segment, replacement: Replacement) -> None:
    """Writes the removal of all layers of a chain.

    Raises:
      CollapseError: a chain with other pairs; no bypass.
    """
    bypass = replacement.bypass
    others = [site.path for site in linked.sites if site.path not in segment.sites]
    if others or bypass is None:
        raise CollapseError(
            f"{segment.label}: got a pair to remove that is a part of a chain, with "
            f"{', '.join(others) or 'no bypass in its place'}; expected the whole chain, since its "
            "output would be a constant. Remove all sites of the chain, or take another fit for "
            "this one."
        )
    linked.removed = bypass


def _take_bypass(linked: LinkedChain, place: int, width: int, first: DenseParams) -> DenseParams:
    """Returns a first layer without the bypass that it includes, which goes to its own place."""
    previous = linked.sites[place - 1].path
    bypass, own = split_dense(first, width)
    linked.narrow[previous] = linked.narrow[previous]._replace(bypass=bypass)
    return own


def _followed(
    linked: LinkedChain, place: int, outer: list[DenseParams], factor: DenseParams
) -> list[DenseParams]:
    """Returns the first factors of a link with the last multiplied by one more.

    So is the bypass that is added to its output.
    """
    bypass = linked.bypass_into(place)
    if bypass is not None and len(outer) == 1:
        previous = linked.sites[place - 1].path
        passed = follow_dense(bypass, factor)
        linked.narrow[previous] = linked.narrow[previous]._replace(bypass=passed)
    return [*outer[:-1], fuse_dense([outer[-1], factor])]


def _narrowed(call: BoundCall, linked: LinkedChain, place: int, units: np.ndarray) -> NarrowSite:
    """Returns what a site has next to its layers, on some units; the bypass that it had, too.

    Raises:
      CollapseError: a site within a scan; an operation that needs all units.
    """
    site, link = linked.sites[place], linked.links[place]
    path = unit_path(call.analysis, site)
    if blocks_around(site.match.up.product):
        raise CollapseError(
            f"{site.path}: is inside a loop or a branch, in which no units can be cut. Unroll it, "
            "with a tree of params for every layer, or collapse with lcjax.Exact()."
        )
    narrow = linked.narrow.get(site.path)
    if narrow is not None:
        gate = (*narrow.gate[:-1], *(_cut(factor, units) for factor in narrow.gate[-1:]))
        vectors = tuple(take_units(each, units) for each in narrow.vectors)
        return NarrowSite(gate, vectors, narrow.bypass)
    gate: Run = ()
    if path.gate is not None:
        source = path.sources[path.gate]
        if source.dense is not site.match.up:
            whole = dense_params(call, source.dense)
        elif linked.bypass_into(place) is None:
            whole = layers_of(call, link)[-1]
        else:
            raise _bypassed_gate(linked, place)
        gate = (_cut(whole, source.columns[units]),)
    return NarrowSite(gate, _vectors(call, site, path, units))


def _gate(
    call: BoundCall,
    linked: LinkedChain,
    place: int,
    replacement: Replacement,
    outer: Sequence[DenseParams],
    gate: Run,
) -> Run:
    """Returns the factors of a site's gate, replaced as the segment's gates are.

    Args:
      call: with the tree.
      linked: the chain as it was.
      place: of the site, the first of the segment.
      replacement: of the segment.
      outer: factors before the segment's first layer.
      gate: with all units, in the order of the site.

    Raises:
      CollapseError: a gate in a kernel to whose output a bypass is added.
    """
    if not gate:
        return gate
    site = linked.sites[place]
    path = unit_path(call.analysis, site)
    assert path.gate is not None
    source = path.sources[path.gate]
    cut_off = outer and replacement.layers[0].params is not None
    if cut_off and len(gate) == 1 and source.dense is site.match.up:
        if linked.bypass_into(place) is not None:
            raise _bypassed_gate(linked, place)
        return (*outer, *gate)
    if site.path in linked.narrow:
        units = np.arange(gate[0]["kernel"].shape[-1])
        replaced = [(new, units) for new in replacement.gates]
    else:
        beside = zip(replacement.gates, gates_beside(site), strict=bool(replacement.gates))
        replaced = [
            (new, np.searchsorted(columns, source.columns))
            for new, (dense, columns) in beside
            if dense is source.dense
        ]
    for new, units in replaced:
        if new.params is not None:
            ahead = () if new.factor is None else (new.factor,)
            gate = (*ahead, _cut(new.params, units), *gate[1:])
    return gate


def _bypassed_gate(linked: LinkedChain, place: int) -> CollapseError:
    return CollapseError(
        f"{linked.sites[place].path}: gate and value are parts of one kernel, to whose output "
        f"{linked.sites[place - 1].path} adds a bypass. Give each its own kernel, or take another "
        "fit for one of the two."
    )


def _vectors(
    call: BoundCall, site: MatchedSite, path: UnitPath, units: np.ndarray
) -> tuple[object, ...]:
    """Returns the fixed values that differ from unit to unit, of some units."""
    cut = []
    for each in path.vectors:
        shape = each.value.shape
        whole = vector(each.value, each.roles, shape, call.arrays, site.scans)
        cut.append(take_units(whole, each.start + units))
    return tuple(cut)


def _columns(call: BoundCall, site: MatchedSite) -> np.ndarray:
    """Returns which outputs of the Dense before are the site's units, in order."""
    path = unit_path(call.analysis, site)
    return path.sources[path.value].columns


def _cut(dense: DenseParams, units: np.ndarray) -> DenseParams:
    return {name: take_units(each, units) for name, each in dense.items()}


def _layer_after(segment: Segment, path: str) -> int:
    return 1 + next(i for i, joint in enumerate(segment.joints) if joint.site == path)


def _shapes(layers: Sequence[DenseParams | None]) -> str:
    return ", ".join(str(tuple(each["kernel"].shape)) for each in layers if each) or "none"
