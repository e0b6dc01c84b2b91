"""One option an item within budgets: against all choices there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax.planning.choosing.knapsack import cheapest, pareto_front

number = st.floats(0, 10, allow_nan=False)
items = st.lists(
    st.lists(st.tuples(number, st.integers(0, 5)), min_size=1, max_size=3), min_size=1, max_size=5
)


def split(options):
    costs = [[cost for cost, _ in item] for item in options]
    return costs, [[size for _, size in item] for item in options]


def every(costs, sizes):
    for choice in product(*(range(len(item)) for item in costs)):
        cost = sum(item[i] for item, i in zip(costs, choice, strict=True))
        yield cost, sum(item[i] for item, i in zip(sizes, choice, strict=True))


@given(items)
@settings(max_examples=60, deadline=None)
def test_pareto_front_holds_the_best_choice_for_every_size(options):
    costs, sizes = split(options)
    front = pareto_front(costs, sizes)
    for choice in front:
        picked = list(zip(costs, sizes, choice.options, strict=True))
        np.testing.assert_allclose(choice.cost, sum(c[i] for c, _, i in picked), rtol=1e-12)
        assert choice.size == sum(s[i] for _, s, i in picked)
    assert all(a.size < b.size and a.cost > b.cost for a, b in zip(front, front[1:], strict=False))
    for cost, size in every(costs, sizes):
        best = min((c.cost for c in front if c.size <= size), default=np.inf)
        assert best <= cost * (1 + 1e-12)


@given(items, st.integers(0, 25))
@settings(max_examples=40, deadline=None)
def test_cheapest_is_the_choice_of_the_front_within_the_limit(options, limit):
    costs, sizes = split(options)
    chosen = cheapest(costs, {"params": sizes}, {"params": limit})
    within = [cost for cost, size in every(costs, sizes) if size <= limit]
    if not within:
        assert chosen is None
        return
    got = sum(item[i] for item, i in zip(costs, chosen, strict=True))
    np.testing.assert_allclose(got, min(within), rtol=1e-6, atol=1e-6)
    assert sum(item[i] for item, i in zip(sizes, chosen, strict=True)) <= limit


def test_cheapest_keeps_to_several_limits():
    rng = np.random.default_rng(0)
    costs, params, times = (rng.uniform(0, 1, (6, 4)).tolist() for _ in range(3))
    limits = {"params": 2.5, "ms": 2.8}
    chosen = cheapest(costs, {"params": params, "ms": times}, limits)
    options = list(product(range(4), repeat=6))
    total = lambda table, choice: sum(table[i][j] for i, j in enumerate(choice))
    within = [c for c in options if total(params, c) <= 2.5 and total(times, c) <= 2.8]
    assert total(costs, chosen) == pytest.approx(min(total(costs, c) for c in within), rel=1e-6)


def test_pareto_front_of_a_hundred_equal_layers_is_exact_and_small():
    rng = np.random.default_rng(1)
    sizes = [[0, 64, 192, 384, 640, 1024]] * 100
    costs = (np.sort(rng.exponential(size=(100, 6)), axis=1)[:, ::-1]).tolist()
    front = pareto_front(costs, sizes)
    middle = front[len(front) // 2]
    chosen = cheapest(costs, {"params": sizes}, {"params": middle.size})
    spent = sum(costs[i][j] for i, j in enumerate(chosen))
    np.testing.assert_allclose(middle.cost, spent, rtol=1e-6)


@pytest.mark.parametrize(
    ("costs", "message"),
    [([[]], "item 0: got 0 costs"), ([[float("nan")]], "item 0: got costs .* not finite")],
)
def test_knapsack_rejects_items_without_finite_options(costs, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(costs, [[1.0] * len(costs[0])])


def test_cheapest_rejects_a_budget_without_sizes():
    with pytest.raises(ValueError, match="budget of ms, expected one of"):
        cheapest([[1.0]], {"params": [[1.0]]}, {"ms": 1.0})
