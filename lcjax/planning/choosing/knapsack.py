"""The best choice of one option for every item within budgets: a multiple-choice knapsack."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lcjax._optional import import_optional


class Choice(NamedTuple):
    """One option for every item.

    Attributes:
      options: index of the option that is chosen, an item each.
      cost: sum of their costs.
      size: sum of their sizes.
    """

    options: tuple[int, ...]
    cost: float
    size: float


def pareto_front(
    costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]]
) -> list[Choice]:
    """Returns every choice than which no other is both smaller and cheaper, the smallest first.

    Exact dynamic programming over items: of the partial choices, those stay that no other beats in
    size and in cost. Where sizes are multiples of one number, as with layers of one width, few do.

    Args:
      costs: of every option of every item; finite, in one unit, such as nats.
      sizes: of the same options, such as parameters.

    Raises:
      ValueError: items without options, or costs that are not finite.

    References:
      Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", section 11.5.
    """
    _check(costs, sizes)
    totals, spent = np.zeros(1), np.zeros(1)  # of the partial choices: sizes and costs
    trail: list[tuple[np.ndarray, np.ndarray]] = []  # which one each extends, and by which option
    for item_costs, item_sizes in zip(costs, sizes, strict=True):
        options = len(item_costs)
        new_totals = np.add.outer(totals, np.asarray(item_sizes, float)).ravel()
        new_spent = np.add.outer(spent, np.asarray(item_costs, float)).ravel()
        order = np.lexsort((new_spent, new_totals))
        best = np.minimum.accumulate(new_spent[order])
        first = np.concatenate([[True], best[1:] < best[:-1]])
        kept = order[first]
        totals, spent = new_totals[kept], new_spent[kept]
        trail.append((kept // options, kept % options))
    return [
        Choice(_options(trail, end), float(spent[end]), float(totals[end]))
        for end in range(len(totals))
    ]


def cheapest(
    costs: Sequence[Sequence[float]],
    sizes: Mapping[str, Sequence[Sequence[float]]],
    limits: Mapping[str, float],
) -> tuple[int, ...] | None:
    """Returns the cheapest option for every item within several budgets; None where there is none.

    A mixed-integer linear program, solved by SciPy's HiGHS to optimality.

    Args:
      costs: of every option of every item; finite, in one unit.
      sizes: the same of every quantity that has a budget, such as parameters and milliseconds.
      limits: largest sum of each quantity.

    Raises:
      ValueError: items without options; costs that are not finite; a quantity without sizes.
      ImportError: without SciPy, which JAX brings.
    """
    use = "several budgets at once need SciPy"
    optimize = import_optional("scipy.optimize", use, "scipy")
    sparse = import_optional("scipy.sparse", use, "scipy")
    for name in limits:
        if name not in sizes:
            raise ValueError(f"limits: got a budget of {name}, expected one of {sorted(sizes)}.")
        _check(costs, sizes[name])
    counts = [len(item) for item in costs]
    item = np.repeat(np.arange(len(counts)), counts)
    one_each = sparse.coo_array((np.ones(len(item)), (item, np.arange(len(item)))))
    constraints = [optimize.LinearConstraint(one_each.tocsr(), 1, 1)]
    for name, limit in limits.items():
        row = np.concatenate([np.asarray(part, float) for part in sizes[name]])
        scale = max(np.abs(row).max(), 1e-300)  # HiGHS works to absolute tolerances
        constraints.append(optimize.LinearConstraint(row / scale, ub=limit / scale))
    flat = np.concatenate([np.asarray(part, float) for part in costs])
    scale = max(np.abs(flat).max(), 1e-300)
    result = optimize.milp(
        flat / scale,
        integrality=np.ones(len(flat)),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        return None
    starts = np.concatenate([[0], np.cumsum(counts)])
    return tuple(
        int(result.x[start:end].argmax()) for start, end in zip(starts, starts[1:], strict=False)
    )


def _options(trail: Sequence[tuple[np.ndarray, np.ndarray]], end: int) -> tuple[int, ...]:
    """Returns the options on the way to a last partial choice."""
    options = []
    for before, option in reversed(trail):
        options.append(int(option[end]))
        end = before[end]
    return tuple(reversed(options))


def _check(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]]):
    for i, (item_costs, item_sizes) in enumerate(zip(costs, sizes, strict=True)):
        if not len(item_costs) or len(item_costs) != len(item_sizes):
            raise ValueError(
                f"item {i}: got {len(item_costs)} costs and {len(item_sizes)} sizes; expected as "
                "many of both, and at least one."
            )
        if not (np.isfinite(item_costs).all() and np.isfinite(item_sizes).all()):
            raise ValueError(f"item {i}: got costs or sizes that are not finite.")
