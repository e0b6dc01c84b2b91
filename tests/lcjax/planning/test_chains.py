"""Sizes of the sites of one chain, which share layers."""

import itertools

import jax
import numpy as np
import pytest

import lcjax
from lcjax.planning.budgets import Usage
from lcjax.planning.choosing.chains import chain_size, choices_of_chain, overlap
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.table import FitTable

WIDTHS = (5, 12, 16, 20, 3)
FITS = (
    None,
    lcjax.LeastSquares(),
    lcjax.Units(8),
    lcjax.Units(4, linear=True),
    lcjax.LowRank(2),
)
MODEL = lcjax.CollapsibleMLP(features=WIDTHS[1:])
X = np.random.default_rng(0).normal(size=(128, 5)).astype(np.float32)
DATA = lcjax.CalibrationData([X], progress=False)
PARAMS = jax.jit(MODEL.init)(jax.random.key(1), X)
CHOICES = list(itertools.product(FITS, repeat=3))[1:]


# Each fit, and none, at each of the three sites.
QUICK = [tuple(FITS[(i + 2 * site) % len(FITS)] for site in range(3)) for i in range(len(FITS))]


@pytest.mark.parametrize("fits", QUICK, ids=str)
def test_sizes_are_those_of_the_collapsed_chain(fits):
    check(fits)


@pytest.mark.slow
@pytest.mark.parametrize("fits", CHOICES, ids=str)
def test_all_sizes_are_those_of_the_collapsed_chain(fits):
    check(fits)


def check(fits):
    chosen = {f"act_{i}": fit for i, fit in enumerate(fits) if fit is not None}
    _, report = lcjax.collapse_sequential(MODEL.apply, PARAMS, DATA, fit=chosen)
    weights, biases = chain_size(WIDTHS, fits)
    assert (report.parameters_after, report.flops_after) == (weights + biases, 2 * weights)


def test_one_site_has_no_overlap():
    assert all(overlap((4, 8, 2), [fit]) == (0, 0) for fit in FITS)


def test_choices_that_are_left_out_are_beaten():
    rng = np.random.default_rng(0)
    widths, options = (8,) * 9, (None, *map(lcjax.Units, (2, 4)), lcjax.LeastSquares())
    fits, drops = [options] * 7, rng.uniform(size=(7, 4)).tolist()

    def front(choices):
        cost = {}
        for choice in choices:
            size = sum(chain_size(widths, [options[i] for i in choice]))
            drop = sum(own[i] for own, i in zip(drops, choice, strict=True))
            cost[size] = min(drop, cost.get(size, np.inf))
        least = np.minimum.accumulate([cost[size] for size in sorted(cost)])
        return dict(zip(sorted(cost), least.round(9).tolist(), strict=True))

    some = choices_of_chain(widths, fits, drops)
    assert len(some) < 4**7
    every = front(itertools.product(range(4), repeat=7))
    found = front(some)
    best = {size: drop for size, drop in every.items() if size in found}
    assert found == best and min(found) == min(every)


def test_no_plan_of_a_chain_is_predicted_to_be_smaller_than_it_is():
    plan = lcjax.plan_fits(MODEL.apply, PARAMS, DATA, budget=lcjax.Params(0.5), tolerance=1)
    assert plan.rounds[0].predicted[1:5] == plan.rounds[0].measured[1:5]
    assert all(each.predicted.parameters > 0 for each in plan.pareto_front)
    again = [site.after for site in plan.table.sites]
    assert again == [None, "act_0", "act_1"]


@pytest.mark.parametrize("fits", QUICK[1:], ids=str)
@pytest.mark.parametrize("widths", [WIDTHS, (100, 10, 12, 10, 100)], ids=["wide", "narrow"])
def test_time_that_is_work_alone_is_predicted_as_work(widths, fits):
    """Each fit's time is its own FLOPs: together they take as long as the FLOPs of the chain."""
    weights, biases = chain_size(widths, [None] * 3)
    deep = Usage(0.0, weights + biases, 2 * weights, kept=3, bytes=4 * weights, ms=2.0 * weights)
    rows = []
    for i, fit in enumerate(fits):
        alone = [fit if i == j else None for j in range(3)]
        less, fewer = (
            a - b for a, b in zip(chain_size(widths, alone), (weights, biases), strict=True)
        )
        change = Usage(0.0, less + fewer, 2 * less, -(fit is not None), 0, 2.0 * less)
        after = f"act_{i - 1}" if i else None
        options = (KEEP, Option(fit, change))
        rows.append(SiteOptions(f"act_{i}", widths[i : i + 3], options, after=after))
    table = FitTable(deep, tuple(rows))
    found = table.usage([int(fit is not None) for fit in fits])
    assert found.ms == pytest.approx(found.flops)
    assert found.flops == 2 * chain_size(widths, fits)[0]
