"""How wide MLPs were and are, and the blocks that a picture shows of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lcjax.plots.network import Block
from lcjax.structure.sites import Sites


class Narrowed(NamedTuple):
    """A site of which some hidden units stay.

    Attributes:
      site: its path.
      count: how many units stay.
      width: how many there were.
      linear: whether a linear map of the input was put next to them.
    """

    site: str
    count: int
    width: int
    linear: bool

    def __str__(self) -> str:
        """Returns what the site became."""
        units = f"{self.count:,} of {self.width:,} units"
        return f"{units} and a linear map" if self.linear else units


class HiddenWidth(NamedTuple):
    """How wide the activation of a site was.

    Attributes:
      site: its path.
      width: hidden units, of one layer.
      layers: how many layers are stacked there.
    """

    site: str
    width: int
    layers: int


def hidden_widths(sites: Sites) -> tuple[HiddenWidth, ...]:
    """Returns the widths of the paired sites, in their order."""
    paired = (site for site in sites if site.paired)
    return tuple(HiddenWidth(site.path, site.d_hidden, site.layers) for site in paired)


def blocks_of(
    widths: Sequence[HiddenWidth],
    forms: Mapping[str, str],
    narrowed: Sequence[Narrowed],
    ranks: Mapping[str, int],
) -> list[Block]:
    """Returns the blocks of a picture of a collapse.

    Args:
      widths: before the collapse.
      forms: what collapsed sites became, in words; "removed" where a bias replaced one.
      narrowed: the sites of which some units stay.
      ranks: of the kernels, by site, of those that are two factors each.
    """
    units = {each.site: each for each in narrowed}
    blocks = []
    for site, width, layers in widths:
        name = f"{site or '(root)'} ×{layers}" if layers > 1 else site or "(root)"
        if site in units:
            blocks.append(Block(name, width, units[site].count, "narrowed", str(units[site])))
        elif site in forms:
            form = "removed" if forms[site] == "removed" else "linear"
            blocks.append(Block(name, width, 0, form, forms[site]))
        else:
            rank = f", kernels of rank {ranks[site]:,}" if site in ranks else ""
            blocks.append(Block(name, width, width, "kept", f"{width:,}{rank}"))
    return blocks
