"""Which places of a function are sites, and why others are not, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass

from lcjax._document import Document, Table
from lcjax.transform.analysis.reasons import Rejected
from lcjax.transform.matching.find_sites import Analysis
from lcjax.transform.params.tree import FunctionParams


@dataclass(frozen=True)
class Explanation(Document):
    """Every place in a function where a Dense feeds another; prints as a table.

    Anything may be between them except products of data with data, as in attention. Products with
    kernels by batch, by group, or picked by the data count as Dense layers here.

    Attributes:
      sites: the paths of the sites, in forward order.
      fused: the paths of those that are fused already.
      units: how many units stay, by the sites that keep fewer than the function has.
      rejected: what is not a site: the path of the Dense before, and the reason, typed; `str` gives
        its text.
    """

    sites: tuple[str, ...]
    fused: tuple[str, ...]
    units: Mapping[str, int]
    rejected: tuple[Rejected, ...]

    @classmethod
    def of(cls, analysis: Analysis, params: FunctionParams) -> "Explanation":
        """Returns the explanation of a program that runs with a tree."""
        fused = tuple(path for path in _paths(params) if path in params.collapsed)
        sites = tuple(site.path for site in analysis.sites if site.path not in fused)
        widths = {site.path: site.widths[1] for site in analysis.sites}
        fewer = {path: k for path, k in params.narrow.items() if k != widths.get(path)}
        return cls(sites, fused, fewer, analysis.rejected)

    def _parts(self) -> list[Table | str]:
        rows = [(path, self._site(path)) for path in self.sites]
        rows += [(path, "fused") for path in self.fused]
        rows += [(path, f"not a site: {reason}") for path, reason in self.rejected]
        return [Table(("after", ""), rows or [("", "no Dense feeds another")], left=2)]

    def _site(self, path: str) -> str:
        k = self.units.get(path)
        return "a site" if k is None else f"a site, of which {k:,} units stay"


def _paths(params: FunctionParams) -> list[str]:
    return [path for key in params.keys.values() for path in key.sites]
