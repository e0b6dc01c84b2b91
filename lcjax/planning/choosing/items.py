"""The chains of a model as items of a knapsack: sites of one chain are chosen together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lcjax.planning.budgets import Quantity, Usage
from lcjax.planning.choosing.chains import choices_of_chain, overlap
from lcjax.planning.choosing.options import SiteOptions


@dataclass(frozen=True)
class ChainItems:
    """The choices for each chain of sites, and what they change.

    Attributes:
      deep: usage of the deep model.
      sites: in forward order.
    """

    deep: Usage
    sites: tuple[SiteOptions, ...]

    def of(self, choice: Sequence[int]) -> list[Usage]:
        """Returns what a choice of an option for each site changes, a chain each."""
        return [self._together(chain, [choice[i] for i in chain]) for chain in self._chains]

    def changes(self, quantity: Quantity) -> list[list[float]]:
        """Returns what the choices for each chain change in a quantity."""
        return [[getattr(change, quantity) or 0 for _, change in item] for item in self._items]

    def choice(self, of_chains: Sequence[int]) -> tuple[int, ...]:
        """Returns the option of each site from the choice of each chain."""
        found = dict[int, int]()
        for chain, item, at in zip(self._chains, self._items, of_chains, strict=True):
            found.update(zip(chain, item[at][0], strict=True))
        return tuple(found[i] for i in range(len(self.sites)))

    @cached_property
    def _chains(self) -> list[list[int]]:
        """The sites by chain, as indices."""
        chains: dict[str, list[int]] = {}
        for i, site in enumerate(self.sites):
            chain = chains.pop(site.after, []) if site.after is not None else []
            chains[site.site] = [*chain, i]
        return list(chains.values())

    @cached_property
    def _items(self) -> list[list[tuple[tuple[int, ...], Usage]]]:
        """The choices for each chain, and their changes."""
        items = []
        for chain in self._chains:
            options = [self.sites[i].options for i in chain]
            fits = [[option.fit for option in own] for own in options]
            drops = [[option.change.drop for option in own] for own in options]
            chosen = choices_of_chain(self._widths(chain), fits, drops)
            items.append([(choice, self._together(chain, choice)) for choice in chosen])
        return items

    def _together(self, chain: Sequence[int], choice: Sequence[int]) -> Usage:
        """Returns what the options of the sites of a chain change."""
        options = [self.sites[i].options[at] for i, at in zip(chain, choice, strict=True)]
        changes = [option.change for option in options]
        if len(chain) == 1:
            return changes[0]
        sums: dict[str, Any] = {
            name: sum(getattr(one, name) or 0 for one in changes) for name in Usage._fields
        }
        weights, entries = overlap(self._widths(chain), [option.fit for option in options])
        sums["ms"] += 2 * weights * (self.deep.ms or 0) / max(self.deep.flops, 1)
        sums["parameters"] += entries
        sums["flops"] += 2 * weights
        sums["bytes"] += entries * round((self.deep.bytes or 0) / max(self.deep.parameters, 1))
        return Usage(**sums)

    def _widths(self, chain: Sequence[int]) -> tuple[int, ...]:
        first, *rest = (self.sites[i].widths for i in chain)
        return (*first, *(widths[-1] for widths in rest))
