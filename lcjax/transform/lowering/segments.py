"""Segments of a program: Dense layers that one replacement stands for, as surgery takes them."""

from collections.abc import Collection, Sequence

import numpy as np

from lcjax.algebra.bypasses import stack_dense
from lcjax.algebra.fuse import DenseParams
from lcjax.errors import BypassedError
from lcjax.structure.segment import Entry, Joint, Segment
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.joints import joint_of, narrow_joint_of, select_units
from lcjax.transform.lowering.links import (
    Link,
    LinkedChain,
    dense_params,
    gates_beside,
    layers_of,
    linked_chains,
)
from lcjax.transform.lowering.site_chains import SiteChain, chains_with
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.unit_path import unit_path
from lcjax.tree.encoding import readable


def segments_of(call: BoundCall, chosen: Collection[str]) -> list[Segment]:
    """Returns the segments that the chosen sites make.

    Raises:
      CollapseError: a site whose norm uses statistics of the batch in this call.
    """
    linked = linked_chains(call)
    return [_segment(call, chain, linked[chain.paths[0]]) for chain in chains_with(call, chosen)]


def check_unread(call: BoundCall, segments: Sequence[Segment]) -> None:
    """Raises BypassedError for segments whose inside a linear map next to later units reads."""
    linked = linked_chains(call)
    for segment in segments:
        chain = linked[segment.sites[-1]]
        after = chain.sites[chain.index(segment.sites[-1]) + 1 :]
        narrow = chain.narrow.get(after[0].path) if after else None
        if narrow is not None and narrow.bypass is not None and "kernel" in narrow.bypass:
            raise BypassedError(
                f"{segment.label}: the linear map next to the units of {after[0].path} reads its "
                f"hidden units. Collapse {after[0].path} first, without a linear map, or both with "
                "one calibration.",
                segment.sites,
            )


def _segment(call: BoundCall, chain: SiteChain, linked: LinkedChain) -> Segment:
    layers: list[DenseParams] = []
    joints: list[Joint] = []
    names: list[str] = []
    start, end = linked.place_of(chain.first), linked.place_of(chain.last)
    entry = None
    for place in range(start, end + 1):
        link = linked.links[place]
        run = layers_of(call, link)
        bypass = linked.bypass_into(place) if place == start else None
        if bypass is not None:
            run[0] = stack_dense(bypass, run[0])
            width = bypass["kernel"].shape[0] if "kernel" in bypass else 0
            entry = Entry(f"fused/{linked.sites[place - 1].path}/bypass", width)
        layers += run
        joints += [Joint(None)] * (len(run) - 1)
        names += _names(call, link)
        if place < end:
            joint, units = _joint(linked.sites[place], linked, call)
            if units is not None:
                layers[-1] = {name: select_units(each, units) for name, each in layers[-1].items()}
            joints.append(joint)
    return Segment(
        layers=tuple(layers),
        joints=tuple(joints),
        names=tuple(names),
        key=chain.paths[-1],
        gates=() if entry else _gates(linked, start, call),
        entry=entry,
        experts=chain.first.experts,
        ends=end == len(linked.sites),
    )


def _names(call: BoundCall, link: Link) -> list[str]:
    if not link.linear:
        name = readable(call.name_of(link.denses[-1].leaf))
        return [*(f"{name}/{i}" for i in range(len(link.run or [None]) - 1)), name]
    paths = "+".join(site.path for site in link.linear)
    return [f"fused/{paths}/{i}" for i in range(len(link.run or []))]


def _joint(
    site: MatchedSite, linked: LinkedChain, call: BoundCall
) -> tuple[Joint, np.ndarray | None]:
    """Returns a site's joint, and the units of the Dense before that go through it.

    None where the layers in the tree have these units only.
    """
    slope = call.params.slopes.get(site.path, {"slope": np.zeros(site.stack, np.float32)})["slope"]
    narrow = linked.narrow.get(site.path)
    if narrow is None:
        steps = joint_of(site, call.arrays)
        joint = Joint(site.path, slope, steps.before, steps.on_gate, steps.after)
        return joint, steps.input_units[steps.output_units]
    path, k = unit_path(call.analysis, site), call.params.narrow[site.path]
    maps = narrow_joint_of(site, path, narrow.vectors, k, call.arrays)
    return Joint(site.path, slope, *maps, bypass=narrow.bypass), None


def _gates(linked: LinkedChain, start: int, call: BoundCall) -> tuple[DenseParams, ...]:
    """Returns the Dense layers that read a site's input and go with it, as its gate does."""
    if start == len(linked.sites):
        return ()
    site = linked.sites[start]
    narrow = linked.narrow.get(site.path)
    if narrow is not None:
        return narrow.gate[:1]
    if linked.links[start].run is not None:
        return ()
    return tuple(
        {name: select_units(each, units) for name, each in dense_params(call, dense).items()}
        for dense, units in gates_beside(site)
    )
