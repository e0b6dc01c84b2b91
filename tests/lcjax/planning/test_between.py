"""Options between those that were measured: their sizes are those of the collapsed model."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcjax import CalibrationData, CollapsibleMLP, LowRank, Params, Units, collapse_sequential
from lcjax import plan_fits as plan
from lcjax.planning.budgets import Usage
from lcjax.planning.choosing.between import with_options_between
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions

X = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
DATA = CalibrationData([X], progress=False)
MODEL = CollapsibleMLP((64, 32))
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), X[:1])


@pytest.fixture(scope="module")
def site():
    fits = [Units(8), Units(32), Units(16, linear=True), LowRank(1), LowRank(4)]
    budget = Params(0.9)
    (found,) = plan(MODEL.apply, VARIABLES, DATA, budget=budget, candidates=fits).table.sites
    return found


def test_options_lie_between_their_neighbours(site):
    denser = with_options_between(site, 2)
    assert denser.options[: len(site.options)] == site.options
    new = [option.fit for option in denser.options[len(site.options) :]]
    assert new == [*map(Units, (14, 20, 26, 40, 48, 56)), LowRank(2)]
    drops = {option.fit: option.change.drop for option in denser.options}
    units = [drops[Units(count)] for count in (8, 14, 20, 26, 32, 40, 48, 56)]
    assert units == sorted(units, reverse=True) and units[-1] > 0
    assert drops[LowRank(4)] < drops[LowRank(2)] < drops[LowRank(1)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted), st.booleans())
def test_drops_lie_between_those_measured(drops, linear):
    least, most = drops
    measured = [
        Option(Units(count, linear=linear), Usage(drop, 0, 0, -1))
        for count, drop in ((8, most), (24, least))
    ]
    site = SiteOptions("act", (8, 40, 8), (KEEP, *measured))
    also = [Units(17, linear=linear), Units(33, linear=linear)]
    options = with_options_between(site, 8, also).options
    found = {option.fit: option.change.drop for option in options}
    for fit in (Units(16, linear=linear), also[0]):
        assert least - 1e-9 <= found[fit] <= most + 1e-9
    assert (also[1] in found) == (not linear)  # all units alone cost nothing
    assert linear or found[also[1]] <= least + 1e-9


@pytest.mark.parametrize("fit", [Units(14), Units(56), LowRank(2)], ids=str)
def test_sizes_are_those_of_the_collapsed_model(site, fit):
    (option,) = (each for each in with_options_between(site, 2).options if each.fit == fit)
    _, report = collapse_sequential(MODEL.apply, VARIABLES, DATA, fit=fit)
    assert option.change.parameters == report.parameters_after - report.parameters_before
    assert option.change.flops == report.flops_after - report.flops_before
    assert option.change.kept == -1


def test_a_coarse_multiple_leaves_nothing_between(site):
    assert with_options_between(site, 64) == site
