"""Hidden units by how much of the output they explain."""

import numpy as np
import pytest

from lcjax.algebra.unit_selection import NestedOrder, order_units


def sums(values, t):
    values, t = values - values.mean(0), t - t.mean(0)
    return values.T @ values, values.T @ t, (t**2).sum()


def explained_by(values, t):
    values, t = values - values.mean(0), t - t.mean(0)
    return (t**2).sum() - np.linalg.lstsq(values, t, rcond=None)[1].sum()


def data(seed=0, tokens=400, d=6, hidden=24, out=5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, d))
    h = np.maximum(x @ rng.normal(size=(d, hidden)) + rng.normal(size=hidden), 0)
    return x, h, h @ rng.normal(size=(hidden, out))


@pytest.mark.parametrize("given", [False, True], ids=["units alone", "beside x"])
def test_order_units_explains_what_regression_on_them_does(given):
    x, h, t = data()
    values = np.hstack([x, h]) if given else h
    d = x.shape[1] if given else 0
    gram, cross, _ = sums(values, t)
    order = order_units(gram, cross, given=d)
    for k in (0, 1, 2, 7, 15):
        chosen = np.hstack([values[:, :d], h[:, order.units[:k]]])
        if chosen.shape[1]:
            np.testing.assert_allclose(order.explained[k], explained_by(chosen, t), rtol=1e-8)
    assert (np.diff(order.explained) >= 0).all()


def test_order_units_takes_the_best_unit_at_every_step():
    x, h, t = data(seed=1, hidden=10)
    order = order_units(*sums(h, t)[:2])
    for k in range(4):
        before = list(order.units[:k])
        best = max(explained_by(h[:, [*before, j]], t) for j in range(10) if j not in before)
        np.testing.assert_allclose(order.explained[k + 1], best, rtol=1e-8)


def test_order_units_explains_everything_with_all_units():
    _, h, t = data(seed=2)
    gram, cross, total = sums(h, t)
    np.testing.assert_allclose(order_units(gram, cross).explained[-1], total, rtol=1e-9)


def test_order_units_leaves_out_dead_copied_and_irrelevant_units():
    _, h, t = data(seed=3, hidden=8)
    h = np.hstack([h, h[:, :2], np.ones((len(h), 3))])
    gram, cross, total = sums(h, t)
    order = order_units(gram, cross)
    assert len(order.units) == 8 and not set(order.units) & {10, 11, 12}
    np.testing.assert_allclose(order.explained[-1], total, rtol=1e-9)


def test_order_units_of_a_linear_map_takes_none_beside_its_inputs():
    rng = np.random.default_rng(4)
    x, h, _ = data(seed=4)
    t = x @ rng.normal(size=(6, 3))
    gram, cross, total = sums(np.hstack([x, h]), t)
    order = order_units(gram, cross, given=6)
    np.testing.assert_allclose(order.explained[0], total, rtol=1e-9)
    np.testing.assert_allclose(order.explained[-1], total, rtol=1e-9)


def test_order_units_accepts_dependent_inputs():
    x, h, t = data(seed=5)
    x = np.hstack([x, x[:, :2], np.zeros((len(x), 1))])
    gram, cross, _ = sums(np.hstack([x, h]), t)
    order = order_units(gram, cross, 3, given=9)
    chosen = np.hstack([x, h[:, order.units]])
    np.testing.assert_allclose(order.explained[-1], explained_by_rank(chosen, t), rtol=1e-7)


def explained_by_rank(values, t):
    values, t = values - values.mean(0), t - t.mean(0)
    solved = np.linalg.lstsq(values, t, rcond=1e-10)[0]
    return (t**2).sum() - ((t - values @ solved) ** 2).sum()


@pytest.mark.parametrize("given", [0, 6])
def test_nested_order_begins_that_of_larger_counts(given):
    x, h, t = data(seed=6, hidden=70)
    gram, cross, _ = sums(np.hstack([x, h]) if given else h, t)
    nested = NestedOrder(60)
    for count in (5, 60, 33):
        got, want = (
            nested(gram, cross, count, given=given),
            order_units(gram, cross, count, given=given),
        )
        np.testing.assert_array_equal(got.units, want.units)
        np.testing.assert_allclose(got.explained, want.explained, rtol=1e-9)
