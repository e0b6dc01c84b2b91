"""Segments of a program: Dense layers that one replacement stands for, as surgery takes them."""

from collections.abc import Collection

import numpy as np

from lcjax.algebra.fuse import DenseParams
from lcjax.structure.segment import Joint, Segment
from lcjax.transform.analysis.dense import DenseOp, root
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.joints import joint_of, joint_units, select_units
from lcjax.transform.lowering.site_chains import SiteChain, chains_with
from lcjax.transform.lowering.weights import matrix, vector
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.keys import readable


def segments_of(call: BoundCall, chosen: Collection[str]) -> dict[Segment, SiteChain]:
    """Returns the segments that the chosen sites make, each with its sites in the program.

    Raises:
      CollapseError: a site whose norm uses statistics of the batch in this call.
    """
    return {_segment(call, chain): chain for chain in chains_with(call, chosen)}


def _segment(call: BoundCall, chain: SiteChain) -> Segment:
    earlier = {paths[0]: (paths, factors) for paths, factors in call.params.factors.items()}
    layers: list[DenseParams] = []
    joints: list[Joint] = []
    names: list[str] = []
    position, gates = 0, ()
    while position <= len(chain.sites):
        ahead = chain.sites[position:]
        if ahead and ahead[0].path in earlier:
            paths, factors = earlier[ahead[0].path]
            position += len(paths)
            layers += factors
            joints += [Joint(None)] * (len(factors) - 1)
            names += [f"fused/{'+'.join(paths)}/{i}" for i in range(len(factors))]
        else:
            dense = ahead[0].match.up if ahead else chain.last
            layers.append(_params(dense, chain, call))
            names.append(_name(dense, call))
            gates = _gates(ahead[0], chain, call) if position == 0 else gates
        if position < len(chain.sites):
            site = chain.sites[position]
            joint, units = _joint(site, call)
            layers[-1] = {name: select_units(each, units) for name, each in layers[-1].items()}
            joints.append(joint)
        position += 1
    return Segment(
        layers=tuple(layers),
        joints=tuple(joints),
        names=tuple(names),
        key=chain.paths[-1],
        gates=gates,
    )


def _joint(site: MatchedSite, call: BoundCall) -> tuple[Joint, np.ndarray]:
    """Returns a site's joint, and the units of the Dense before that go through it."""
    steps = joint_of(site, call.arrays)
    slope = call.params.slopes.get(site.path, {"slope": np.zeros(site.stack, np.float32)})["slope"]
    joint = Joint(site.path, slope, steps.before, steps.on_gate, steps.after)
    return joint, steps.input_units[steps.output_units]


def _gates(site: MatchedSite, chain: SiteChain, call: BoundCall) -> tuple[DenseParams, ...]:
    """Returns the Dense layers that read a site's input and go with it, as its gate does."""
    up, down = site.match.up, site.match.down
    source = root(up.x)[0]
    gates = [
        _params(dense, chain, call)
        for dense in site.products
        if dense not in (up, down) and root(dense.x)[0] is source and dense.d_in == up.d_in
    ]
    input_units, output_units = joint_units(site.match)
    others = np.setdiff1d(np.arange(up.d_out), input_units[output_units])
    if others.size:  # gate and value are parts of one kernel
        params = _params(up, chain, call)
        gates.append({name: select_units(each, others) for name, each in params.items()})
    return tuple(gates)


def _params(dense: DenseOp, chain: SiteChain, call: BoundCall) -> DenseParams:
    """Returns kernel (..., d_in, d_out) and perhaps bias (..., d_out) of a Dense."""
    kernel = matrix(dense, call.arrays)
    if dense.bias is None:
        return {"kernel": kernel}
    scans = chain.sites[0].scans
    bias = vector(dense.bias, dense.roles, dense.out.shape, call.arrays, scans)
    return {"kernel": kernel, "bias": bias}


def _name(dense: DenseOp, call: BoundCall) -> str:
    assert dense.leaf is not None
    return readable(call.leaf_names[dense.leaf])
