"""How many hidden units each MLP keeps within a number of parameters of the whole network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.baselines.pairs import Pair, narrow_size
from train.validation import ConfigError

Counts = dict[str, int]


def uniform_counts(params: Any, pairs: Sequence[Pair], budget: int) -> Counts:
    """Returns the largest share of units, the same for all pairs, within a budget.

    Args:
      params: of the network.
      pairs: of it, all of them.
      budget: largest number of parameters of the network.

    Raises:
      ConfigError: when one unit for each pair exceeds the budget.
    """
    widths = {pair.site: pair.width(params) for pair in pairs}
    widest = max(widths.values())

    def counts(left: int) -> Counts:
        return {site: max(1, width * left // widest) for site, width in widths.items()}

    return _largest(counts, widest, params, pairs, budget)


def adaptive_counts(
    params: Any, pairs: Sequence[Pair], budget: int, scores: Mapping[str, np.ndarray]
) -> Counts:
    """Returns counts of the units with the largest standardised scores of all pairs.

    Scores of a pair are standardised to mean 0 and deviation 1, then compared over the network.

    Args:
      params: of the network.
      pairs: of it, all of them.
      budget: largest number of parameters of the network.
      scores: of the units, by the site of the pair.

    Raises:
      ConfigError: when one unit for each pair exceeds the budget.

    References:
      An et al. 2024, "Fluctuation-based adaptive structured pruning for large language models"
      (FLAP), arXiv 2312.11983, section 3.3, adaptive structure search.
    """
    standard = {site: (own - own.mean()) / (own.std() or 1.0) for site, own in scores.items()}
    order = np.sort(np.concatenate(list(standard.values())))[::-1]

    def counts(left: int) -> Counts:
        least = order[left - 1]
        return {site: max(1, int((own >= least).sum())) for site, own in standard.items()}

    return _largest(counts, len(order), params, pairs, budget)


def largest_within(
    choose: Callable[[int], dict[str, int]],
    most: int,
    size: Callable[[dict[str, int]], int],
    budget: int,
) -> dict[str, int] | None:
    """Returns what is chosen for the largest number whose size is within a budget; by bisection.

    Args:
      choose: returns counts or ranks, by path, for a number from 1 to most; they never decrease.
      most: the largest number.
      size: returns the parameters of the network with these counts or ranks.
      budget: largest number of parameters of the network.

    Returns:
      the choice; None where number 1 exceeds the budget.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if size(choose(middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return choose(low) if low else None


def _largest(
    counts: Callable[[int], Counts], most: int, params: Any, pairs: Sequence[Pair], budget: int
) -> Counts:
    def size(own: Counts) -> int:
        return narrow_size(params, pairs, own)

    found = largest_within(counts, most, size, budget)
    if found is None:
        raise ConfigError(
            f"a budget of {budget:,} parameters is too small for one unit for each MLP; expected "
            f"at least {size(counts(1)):,}."
        )
    return found
