"""What can be collapsed: sites and segments, and the params trees that they are found in."""

from lcjax.structure.choice import Skip
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.replacement import Replacement, SegmentFit
from lcjax.structure.segment import Joint, Segment
from lcjax.structure.sites import Site, Sites, find_sites

__all__ = [
    "Collapsible",
    "Joint",
    "ParamsTree",
    "Replacement",
    "Segment",
    "SegmentFit",
    "Site",
    "Sites",
    "Skip",
    "find_sites",
]
