"""What the sites of a function cost, and what fusing them saves."""

import math
from collections.abc import Collection
from typing import Any

from lcjax.algebra.fuse import dense_flops
from lcjax.structure.sites import Site, Sites, with_savings, worst_slope
from lcjax.transform.lowering.bound_call import BoundCall
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
      paths: of the sites; those that are fused count with their factors.
    """
    sites = [site for site in call.analysis.sites if site.path in paths]
    collapsed = call.params.collapsed
    fused = {dense for site in sites if site.path in collapsed for dense in site.products}
    rest = {dense for site in sites if site.path not in collapsed for dense in site.products}
    layers = {dense: math.prod(site.stack) for site in sites for dense in site.products}
    own = sum(2 * layers[d] * d.d_in * d.d_out for d in rest - fused)
    factors = [each for at, each in call.params.factors.items() if not set(at).isdisjoint(paths)]
    return own + sum(map(dense_flops, factors))


def _site(found: MatchedSite, slope: Any, call: BoundCall) -> Site:
    d_in, d_hidden, d_out = found.widths
    layers = math.prod(found.stack)
    match = found.match
    site = Site(
        path=found.path,
        slope=0.0 if slope is None else worst_slope(slope),
        d_in=d_in,
        d_hidden=d_hidden,
        d_out=d_out,
        parameters_before=sum(math.prod(call.leaves[i].shape) for i in found.leaves),
        flops_before=2 * layers * sum(dense.d_in * dense.d_out for dense in found.products),
        layers=layers,
    )
    folded = any(step.by is not None and step.shifts for step in match.steps)
    return with_savings(site, match.up.bias is not None, match.down.bias is not None or folded)
