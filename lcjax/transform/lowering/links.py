"""The layers of a whole chain of sites as the tree has them: of the program, or of entries."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.core import Tracer

from lcjax.algebra.fuse import DenseParams
from lcjax.transform.analysis.dense import DenseOp, layer_scans, root
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.joints import joint_units
from lcjax.transform.lowering.site_chains import SiteChain, neighbours
from lcjax.transform.lowering.weights import matrix, vector
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.entries import NarrowSite


@dataclass(eq=False, repr=False)
class Link:
    """One linear map of a chain: a Dense of the program, or the factors that replace several.

    Attributes:
      denses: the Dense layers of the program that it is made of, in order.
      linear: the sites between them, whose activations were removed.
      run: the factors in the tree; None for the one Dense of the program.
      changed: whether the run is new.
    """

    denses: list[DenseOp]
    linear: list[MatchedSite] = field(default_factory=list)
    run: list[DenseParams] | None = None
    changed: bool = False


@dataclass(eq=False, repr=False)
class LinkedChain:
    """All neighbouring sites of a place in the program.

    Attributes:
      links: n + 1 linear maps.
      sites: the n sites between them, whose activations run.
      narrow: those that keep fewer units than the function has, or whose layers are in the tree's
        `fused`, by path.
      removed: the bypass in the place of the whole chain, where a pair of layers is removed.
    """

    links: list[Link]
    sites: list[MatchedSite]
    narrow: dict[str, NarrowSite] = field(default_factory=dict)
    removed: DenseParams | None = None

    def index(self, path: str) -> int:
        """Returns the place of a site whose activation runs; links[i] is before it."""
        return next(i for i, site in enumerate(self.sites) if site.path == path)

    def place_of(self, dense: DenseOp) -> int:
        """Returns the place of the link that a Dense of the program is part of."""
        return next(i for i, link in enumerate(self.links) if dense in link.denses)

    def covered(self, start: int, end: int, layers: int) -> tuple[int, int]:
        """Returns which factors of two links a segment between them leaves out.

        Args:
          start: place of the segment's first link.
          end: that of its last.
          layers: how many layers it has: all, or two, those around its one site.

        Returns:
          how many factors of the first link come before it, and how many of the last after it.
        """
        counts = [len(link.run or [None]) for link in self.links[start : end + 1]]
        if layers == sum(counts):
            return 0, 0
        return counts[0] - 1, counts[-1] - 1

    def bypass_into(self, link: int) -> DenseParams | None:
        """Returns the bypass that is added to the output of a link's first factor."""
        narrow = self.narrow.get(self.sites[link - 1].path) if link else None
        return None if narrow is None else narrow.bypass


def linked_chains(call: BoundCall) -> dict[str, LinkedChain]:
    """Returns the chains of a call with its tree, by the paths of all their sites."""
    found = {}
    for chain in neighbours(call.analysis.sites):
        found |= dict.fromkeys(chain.paths, _linked(call, chain))
    return found


def _linked(call: BoundCall, chain: SiteChain) -> LinkedChain:
    linear = call.params.linear
    linked = LinkedChain([Link([chain.first])], [])
    for site in chain.sites:
        if site.path in linear:
            linked.links[-1].linear.append(site)
            linked.links[-1].denses.append(site.match.down)
        else:
            linked.sites.append(site)
            linked.links.append(Link([site.match.down]))
    by_path = {site.path: site for site in chain.sites}
    for name, key in call.params.keys.items():
        if key.sites[0] in by_path and not key.removes:
            entry = call.params.entries[name]
            start = linked.place_of(by_path[key.sites[0]].match.up)
            for link, run in zip(linked.links[start:], entry.runs, strict=False):
                link.run = list(run)
            linked.narrow |= zip(key.narrow, entry.narrow, strict=False)
    return linked


def layers_of(call: BoundCall, link: Link) -> list[DenseParams]:
    """Returns the factors of a link; a Dense of the program with all its units, in its order."""
    return [dense_params(call, link.denses[0])] if link.run is None else list(link.run)


def dense_params(call: BoundCall, dense: DenseOp) -> DenseParams:
    """Returns kernel (..., d_in, d_out) and perhaps bias (..., d_out) of a Dense."""
    kernel = matrix(dense, call.arrays)
    if dense.bias is None or _is_zero(dense.bias.constant):
        return {"kernel": kernel}
    scans = layer_scans(dense.kernel)
    bias = vector(dense.bias, dense.roles, dense.out.shape, call.arrays, scans)
    return {"kernel": kernel, "bias": bias}


def gates_beside(site: MatchedSite) -> list[tuple[DenseOp, np.ndarray]]:
    """Returns the Dense layers that read a site's input and go with it, as its gate does.

    Each with the indices of its outputs, increasing, that are not the units of the value: gate and
    value may be parts of one kernel.
    """
    up, down = site.match.up, site.match.down
    source = root(up.x)[0]
    found = [
        (dense, np.arange(dense.d_out))
        for dense in site.products
        if dense not in (up, down) and root(dense.x)[0] is source and dense.d_in == up.d_in
    ]
    input_units, output_units = joint_units(site.match)
    others = np.setdiff1d(np.arange(up.d_out), input_units[output_units])
    return [*found, (up, others)] if others.size else found


def _is_zero(constant: Any) -> bool:
    return constant is not None and not isinstance(constant, Tracer) and not np.any(constant)
