"""Neighbouring sites of a program, each of which reads what the one before returns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.transform.analysis.axes import AxisRole, AxisRoles
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.entries import FusedEntry
from lcjax.tree.fused_key import FusedKey


@dataclass(frozen=True, eq=False, repr=False)
class SiteChain:
    """Neighbouring sites.

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
            roles = [site.match.roles[axis] for axis in down.x_tokens]
            numbers = [None if role is None else role[1] for role in roles]
            if site is not self.sites[0]:
                numbers = [None if number is None else tokens[number] for number in numbers]
            tokens = dict(enumerate(numbers))
        return tokens


def chains_with(call: BoundCall, chosen: Collection[str]) -> list[SiteChain]:
    """Returns the chains that the chosen sites make with linear ones next to them, in order.

    Raises:
      CollapseError: a site whose norm uses statistics of the batch in this call.
    """
    linear = call.params.linear.union(chosen)
    sites = [site for site in call.analysis.sites if site.path in linear]
    for site in sites:
        _check_inference(site)
    return [chain for chain in neighbours(sites) if not set(chain.paths).isdisjoint(chosen)]


def neighbours(sites: Sequence[MatchedSite]) -> list[SiteChain]:
    """Returns the chains that some sites make, in forward order."""
    groups: list[list[MatchedSite]] = []
    for site in sites:
        before = [group for group in groups if group[-1].match.down is site.match.up]
        if before:
            before[0].append(site)
        else:
            groups.append([site])
    return [SiteChain(tuple(group)) for group in groups]


def fused_chains(call: BoundCall) -> dict[str, SiteChain]:
    """Returns the chains that are fused, by their keys in the tree.

    Those of which this call reads no leaf, as when a method runs a part of a model, are left out.

    Raises:
      CollapseError: when the function has no such chain; names the site.
    """
    sites = {site.path: site for site in call.analysis.sites}
    chains = {}
    for name, key in call.params.keys.items():
        if sites.keys().isdisjoint(key.sites) and not call.reads(key.removed):
            continue
        for path in key.sites:
            if path not in sites:
                raise CollapseError(f"{path}: is fused in this tree, but {why_no_site(call, path)}")
        chain = SiteChain(tuple(sites[path] for path in key.sites))
        _check_widths(name, key, chain, call.params.entries[name])
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


def _check_widths(name: str, key: FusedKey, chain: SiteChain, entry: FusedEntry) -> None:
    stack, d_in, d_out = chain.sites[0].stack, chain.first.d_in, chain.last.d_out
    if not entry.runs:
        expected, got = (*stack, d_out), _shape(entry.narrow[0].bypass, "bias")
        if got != expected:
            raise CollapseError(f"fused/{name}: got a bias of {got}, expected {expected}. {_OTHER}")
        return
    first, last = entry.runs[0][0], entry.runs[-1][-1]
    got = [(*_shape(first, "kernel")[:-1], _shape(last, "kernel")[-1])]
    expected = [(*stack, d_in, d_out)]
    for (before, after), k in zip(pairwise(entry.runs), key.narrow.values(), strict=True):
        got.append((_shape(before[-1], "kernel")[-1], _shape(after[0], "kernel")[0]))
        expected.append((k, k))
    for other, due in zip(got, expected, strict=True):
        if other != due:
            raise CollapseError(f"fused/{name}: got a kernel of {other}, expected {due}. {_OTHER}")


_OTHER = "Pass a tree that was made for a function of these widths."


def _shape(params: Any, name: str) -> tuple[int, ...]:
    return tuple(params[name].shape)


def dense_input(dense: DenseOp, x: jax.Array) -> jax.Array:
    """Returns the input of a Dense, as the program has it, as (experts..., tokens..., d_in).

    Without the axes of experts where all of them read the same.
    """
    free = [*dense.x_experts, *dense.x_tokens]
    x = jnp.transpose(x, [*free, *dense.x_axes])
    return jnp.reshape(x, (*x.shape[: len(free)], dense.d_in))


def input_tokens(chain: SiteChain) -> tuple[int, ...]:
    """Returns the sizes of the axes before the units of a chain's values: experts, then tokens."""
    first = chain.first
    return (*first.experts, *(first.x.shape[axis] for axis in first.x_tokens))


def tokens_first(array: jax.Array, roles: AxisRoles, tokens: Sequence[int]) -> jax.Array:
    """Returns an array as (experts..., tokens..., d), its axes in the order of their numbers.

    Args:
      array: any.
      roles: of its axes.
      tokens: sizes of the axes of experts and tokens.
    """
    known = sorted((role, axis) for axis, role in enumerate(roles) if role)
    order = [axis for axis, role in enumerate(roles) if not role]
    order += [axis for _, axis in known]  # "expert" sorts before "token", and that before "unit"
    return jnp.reshape(jnp.transpose(array, order), (*tokens, -1))


def with_tokens(roles: AxisRoles, tokens: Mapping[int, int | None]) -> AxisRoles:
    """Returns roles whose tokens are counted in another way.

    Args:
      roles: of any value.
      tokens: for each token axis its new number; None for one of size 1.
    """
    counted: list[AxisRole] = []
    for role in roles:
        if role and role[0] == "token":
            number = tokens[role[1]]
            role = None if number is None else ("token", number)
        counted.append(role)
    return tuple(counted)
