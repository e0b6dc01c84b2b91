"""Which fits a mixed folder may choose from, and what they cost."""

import pytest

import lcjax
from lcjax.calibration.fits import Fit
from lcjax.folder.families import family_of
from lcjax.folder.fitting.choosing import choose, costs_of
from lcjax.folder.fitting.forms import form_of
from lcjax.folder.fitting.plan import uniform_fits
from lcjax.folder.storage.model_folder import read_model_folder
from lcjax.planning.plan_file import fit_to_json
from tests.lcjax.folder.folders import DEPTH, HIDDEN

COUNTS = range(8, HIDDEN, 8)


def test_cost_of_a_fit_is_in_proportion_to_the_one_of_its_form_that_was_followed():
    tried = [
        {"fit": fit_to_json(fit), "error": error, "name": name, "followed": followed}
        for fit, error, name, followed in (
            (lcjax.Units(8), 0.4, "0_units", False),
            (lcjax.Units(16), 0.2, "0_units", True),
            (lcjax.LeastSquares(), 0.3, "0_linear", True),
        )
    ]
    found = costs_of(tried, {"0_units": 0.1, "0_linear": 0.6})
    assert found == pytest.approx(
        {lcjax.Units(8): 0.2, lcjax.Units(16): 0.1, lcjax.LeastSquares(): 0.6}
    )


def test_units_go_to_the_layer_whose_errors_reach_the_output(bert):
    """With equal costs every layer keeps as many units as another, to one step."""
    family, budget = family_of(read_model_folder(bert)), lcjax.Params(0.75)
    alike: dict[Fit, float] = {lcjax.Units(k): (1 - k / HIDDEN) ** 2 for k in COUNTS}
    uniform = uniform_fits(family, budget, 8, bias=True)

    def chosen(gains):
        costs = [{fit: gain * cost for fit, cost in alike.items()} for gain in gains]
        return choose(family, costs, budget, multiple_of=8, buffer=2**30)[0]

    even = {form_of(fit, HIDDEN).width for fit in chosen([1.0] * DEPTH)}
    least = form_of(uniform[0], HIDDEN).width
    assert least in even <= {least, least + 8}
    fits = [form_of(fit, HIDDEN).width for fit in (*chosen([4.0, 1.0, 1.0]), uniform[0])]
    assert fits[0] > fits[-1] > min(fits)
