"""Neighbouring sites of a program that one linear map replaces."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcjax.errors import CollapseError
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.matching.find_sites import MatchedSite


@dataclass(frozen=True, eq=False, repr=False)
class SiteChain:
    """Neighbouring sites, all of them linear: one matrix, or several factors.

    Attributes:
      sites: in forward order; the Dense after one is the Dense before the next.
    """

    sites: tuple[MatchedSite, ...]

    @property
    def first(self) -> DenseOp:
        """The Dense that the chain starts with."""
        return self.sites[0].match.up

    @property
    def last(self) -> DenseOp:
        """The Dense that it ends with."""
        return self.sites[-1].match.down

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of its sites."""
        return tuple(site.path for site in self.sites)

    @property
    def leaves(self) -> frozenset[int]:
        """The leaves of the params that only it needs, by index."""
        return frozenset().union(*(site.leaves for site in self.sites))

    @property
    def output_tokens(self) -> dict[int, int | None]:
        """Which token axis of the input each of the output's is; None for one of size 1."""
        tokens: dict[int, int | None] = {}
        for site in self.sites:
            down = site.match.down
            rest = [axis for axis in range(len(down.x.shape)) if axis not in down.x_axes]
            roles = [site.match.roles[axis] for axis in rest]
            numbers = [None if role is None else role[1] for role in roles]
            if site is not self.sites[0]:
                numbers = [None if number is None else tokens[number] for number in numbers]
            tokens = dict(enumerate(numbers))
        return tokens


def chains_with(call: BoundCall, chosen: Collection[str]) -> list[SiteChain]:
    """Returns the chains that the chosen sites make with those that are fused, in forward order.

    Raises:
      CollapseError: a site whose norm uses statistics of the batch in this call.
    """
    linear = call.params.collapsed.union(chosen)
    groups: list[list[MatchedSite]] = []
    for site in call.analysis.sites:
        if site.path in linear:
            _check_inference(site)
            before = [group for group in groups if group[-1].match.down is site.match.up]
            if before:
                before[0].append(site)
            else:
                groups.append([site])
    chains = [SiteChain(tuple(group)) for group in groups]
    return [chain for chain in chains if not set(chain.paths).isdisjoint(chosen)]


def fused_chains(call: BoundCall) -> dict[str, SiteChain]:
    """Returns the chains that are fused, by their keys in the tree.

    Raises:
      CollapseError: when the function has no such chain; names the site.
    """
    sites = {site.path: site for site in call.analysis.sites}
    chains = {}
    for name, key in call.params.keys.items():
        for path in key.sites:
            if path not in sites:
                raise CollapseError(f"{path}: is fused in this tree, but {why_no_site(call, path)}")
        chain = SiteChain(tuple(sites[path] for path in key.sites))
        _check_widths(name, chain, call.params.factors[key.sites])
        chains[name] = chain
    return chains


def why_no_site(call: BoundCall, path: str) -> str:
    """Returns why the function has no site of this path, with what to do."""
    reason = call.rejection(path)
    if reason is not None:
        return f"the function has no such site in this call: {reason}."
    names = ", ".join(site.path for site in call.analysis.sites[:8]) or "none"
    return (
        f"the function has no such site (its sites: {names}). Pass a tree that `init`, `collapse` "
        "or a restore made for this function."
    )


def _check_inference(site: MatchedSite) -> None:
    if site.uses_batch_statistics:
        raise CollapseError(
            f"{site.path}: the norm in it uses the statistics of the batch in this call, so that "
            "there is nothing to fold in. Trace the call at inference (train=False)."
        )


def _check_widths(key: str, chain: SiteChain, factors: Sequence[Mapping[str, Any]]) -> None:
    expected = (*chain.sites[0].stack, chain.first.d_in, chain.last.d_out)
    got = (*factors[0]["kernel"].shape[:-1], factors[-1]["kernel"].shape[-1])
    if got != expected:
        raise CollapseError(
            f"fused/{key}: got a kernel of {got}, expected {expected}. Pass a tree that was made "
            "for a function of these widths."
        )
