"""What the sites of a function cost, and what fusing them saves."""

import math
from collections.abc import Collection
from typing import Any

from lcjax.algebra.fuse import dense_flops
from lcjax.structure.sites import Site, Sites, with_savings, worst_slope
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.segments import segments_of
from lcjax.transform.matching.find_sites import MatchedSite


def sites_of(call: BoundCall) -> Sites:
    """Returns the sites that are not fused yet, in forward order; without a slope it is 0."""
    collapsed, slopes = call.params.collapsed, call.params.slopes
    return Sites(
        _site(site, slopes.get(site.path, {}).get("slope"), call)
        for site in call.analysis.sites
        if site.path not in collapsed
    )


def flops_of(call: BoundCall, paths: Collection[str]) -> int:
    """Returns multiply-adds times two for one token through the Dense layers around some sites.

    Args:
      call: the call.
      paths: of the sites; those that are fused or keep units count with their entries' layers.
    """
    sites = [site for site in call.analysis.sites if site.path in paths]
    stored = {path for key in call.params.keys.values() for path in key.sites}
    fused = {dense for site in sites if site.path in stored for dense in site.products}
    rest = {dense for site in sites if site.path not in stored for dense in site.products}
    layers = {dense: math.prod(site.stack) for site in sites for dense in site.products}
    entries = [
        call.params.entries[name]
        for name, key in call.params.keys.items()
        if not set(key.sites).isdisjoint(paths)
    ]
    return sum(2 * layers[d] * d.d_in * d.d_out for d in rest - fused) + sum(
        dense_flops(entry.layers) for entry in entries
    )


def _site(found: MatchedSite, slope: Any, call: BoundCall) -> Site:
    match, layers = found.match, math.prod(found.stack)
    folded = any(step.by is not None and step.shifts for step in match.steps)
    biased = match.up.bias is not None, match.down.bias is not None or folded
    d_in, d_hidden, d_out = found.widths
    parameters = sum(math.prod(call.leaves[i].shape) for i in found.leaves)
    flops = 2 * layers * sum(dense.d_in * dense.d_out for dense in found.products)
    if found.path in call.params.narrow or _next_to_narrow(found, call):
        (segment,) = segments_of(call, {found.path})
        pair = segment.pair
        d_in, d_hidden, d_out = pair.widths
        bypass = pair.joints[0].bypass or {}
        parts = [*pair.layers, *pair.gates, bypass]
        parameters = sum(math.prod(leaf.shape) for part in parts for leaf in part.values())
        flops = dense_flops(part for part in parts if "kernel" in part)
        biased = "bias" in pair.layers[0], biased[1] or bool(bypass)
    site = Site(
        path=found.path,
        slope=0.0 if slope is None else worst_slope(slope),
        d_in=d_in,
        d_hidden=d_hidden,
        d_out=d_out,
        parameters_before=parameters,
        flops_before=flops,
        layers=layers,
        experts=math.prod(match.up.experts),
    )
    return with_savings(site, *biased)


def _next_to_narrow(found: MatchedSite, call: BoundCall) -> bool:
    """Returns whether a site shares a Dense with one that keeps units."""
    narrow = [site.match for site in call.analysis.sites if site.path in call.params.narrow]
    match = found.match
    return any(other.down is match.up or other.up is match.down for other in narrow)
