"""The sites of a function as `lcjax.find_sites` tells them of a tree."""

import math
from collections.abc import Sequence
from typing import Any

from lcjax.structure.sites import Site, Sites, farthest, with_savings
from lcjax.transform.matching.find_sites import Analysis, MatchedSite
from lcjax.transform.params.tree import FunctionParams, read_fused


def sites_of(analysis: Analysis, parts: FunctionParams, leaves: Sequence[Any]) -> Sites:
    """Returns the sites that are not fused yet, in forward order; one without a slope has slope 0.

    Args:
      analysis: of the program.
      parts: of the tree.
      leaves: of the model's params.
    """
    gone = {path for key in read_fused(parts.fused).values() for path in key.sites}
    return Sites(
        _site(site, parts.slopes.get(site.path, {}).get("slope"), leaves)
        for site in analysis.sites
        if site.path not in gone
    )


def _site(found: MatchedSite, slope: Any, leaves: Sequence[Any]) -> Site:
    d_in, d_hidden, d_out = found.widths
    layers = math.prod(found.stack)
    match = found.match
    site = Site(
        path=found.path,
        slope=0.0 if slope is None else farthest(slope),
        d_in=d_in,
        d_hidden=d_hidden,
        d_out=d_out,
        parameters_before=sum(math.prod(leaves[i].shape) for i in found.leaves),
        flops_before=2 * layers * sum(dense.d_in * dense.d_out for dense in found.products),
        layers=layers,
    )
    folded = any(step.by is not None and step.shifts for step in match.steps)
    return with_savings(site, match.up.bias is not None, match.down.bias is not None or folded)
