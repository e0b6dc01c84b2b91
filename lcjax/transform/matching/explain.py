"""What of a function is a site and what is not, as a table."""

from dataclasses import dataclass

from lcjax._table import render
from lcjax.transform.analysis.reasons import Rejected
from lcjax.transform.matching.find_sites import Analysis
from lcjax.transform.params.tree import FunctionParams, read_fused


@dataclass(frozen=True)
class Explanation:
    """Every place in a function where a Dense leads to another; prints as a table.

    Through whatever is between, but for products of data with data, as in attention. Products
    with kernels by batch, by group, or picked by the data count as Dense layers here.

    Attributes:
      sites: the paths of the sites, in forward order.
      fused: the paths of those that are fused already.
      rejected: what is left alone, by the path of the Dense before, with the reason.
    """

    sites: tuple[str, ...]
    fused: tuple[str, ...]
    rejected: tuple[Rejected, ...]

    @classmethod
    def of(cls, analysis: Analysis, parts: FunctionParams) -> "Explanation":
        """Returns the explanation of what is analysis in a program."""
        fused = tuple(path for key in read_fused(parts.fused).values() for path in key.sites)
        sites = tuple(site.path for site in analysis.sites if site.path not in fused)
        return cls(sites, fused, analysis.rejected)

    def __str__(self) -> str:
        """Returns the table."""
        rows = [(path, "a site") for path in self.sites]
        rows += [(path, "fused") for path in self.fused]
        rows += [(path, f"left alone: {reason}") for path, reason in self.rejected]
        return render(("after", ""), rows or [("", "no Dense leads to another")], left=2)
