"""Fits and plan files as JSON: written, read, refused, and checked against a model."""

import json
import math

import jax
import numpy as np
import pytest

from lcjax import CollapseError, Exact, LeastSquares, PerUnit, calibrate, collapse
from lcjax.calibration.fits import Remove, Units
from lcjax.planning.plan_file import PlanFile, PlannedSite, fit_from_json, fit_to_json
from lcjax.structure.params_tree import ParamsTree
from tests.helpers.trees import random_chain

FITS = [
    Exact(),
    Exact(max_gap=math.inf),
    PerUnit(sequential=False),
    LeastSquares(ridge=0.1, rank="auto", tolerance=0.1),
    LeastSquares(rank=3),
    Units(192),
    Units(0, linear=True, ridge=0.0),
    Remove(),
]


@pytest.mark.parametrize("fit", FITS, ids=str)
def test_fits_come_back_from_json(fit):
    assert fit_from_json(json.loads(json.dumps(fit_to_json(fit)))) == fit


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "got a JSON null, expected an object such as"),
        ("units", "got 'units', expected an object such as"),
        ({"fit": "unit"}, "got 'unit', expected one of exact, per_unit, least_squares, units"),
        ({"fit": "units"}, "got no count, which units needs"),
        ({"fit": "units", "count": -1}, "count is -1; expected a number of units"),
        ({"fit": "units", "count": "inf"}, "count is inf"),
        ({"fit": "units", "count": 2, "linear": 1}, "linear is a JSON number, expected a boolean"),
        ({"fit": "remove", "count": 2}, "got count, expected sequential"),
        ({"fit": "least_squares", "ridge": "a"}, "ridge is 'a'; expected a number"),
    ],
)
def test_other_json_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        fit_from_json(value)


def plan_of(variables, **changed):
    (segment,) = ParamsTree(variables).segments(["act_0"])
    site = PlannedSite(Units(2), segment.widths, segment.weights)._replace(**changed)
    return PlanFile({"act_0": site}, {"baseline": 1.5})


def test_a_plan_file_comes_back_and_is_of_its_model(tmp_path):
    _, variables = random_chain((8, 3), 4)
    plan = plan_of(variables)
    plan.save(tmp_path / "plan.json")
    found = PlanFile.load(tmp_path / "plan.json")
    assert found == plan and found.fits == {"act_0": Units(2)}
    found.check(ParamsTree(variables))
    found.check(ParamsTree(variables).abstract())


def test_a_plan_is_checked_against_statistics_where_a_checkpoint_has_shapes_alone():
    model, variables = random_chain((8, 3), 4)
    plan, abstract = plan_of(variables), ParamsTree(variables).abstract()
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    plan.check(abstract, calibrate(model.apply, variables, [x]))
    trained = jax.tree.map(lambda leaf: leaf + np.ones_like(leaf), variables)
    with pytest.raises(CollapseError, match="act_0: the plan was made for other weights"):
        plan.check(abstract, calibrate(model.apply, trained, [x]))


def test_a_plan_after_an_earlier_collapse_fits_statistics_of_pairs():
    model, variables = random_chain((4, 64, 64), 64)
    x = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    factors, report = collapse(variables, ["act_0"], Exact(max_gap=math.inf))
    assert report.factored == ("act_0",)
    (segment,) = ParamsTree(factors).segments(["act_1"])
    plan = PlanFile({"act_1": PlannedSite(Units(2), segment.widths, segment.weights)})
    stats = calibrate(model.apply, factors, [x], ["act_1"], Units(2))
    plan.check(ParamsTree(factors).abstract(), stats)


def test_a_plan_of_another_model_is_refused():
    _, variables = random_chain((8, 3), 4)
    _, wider = random_chain((9, 3), 4)
    plan = plan_of(variables)
    with pytest.raises(CollapseError, match=r"act_0: the plan is for layers \(4, 8, 3\), this"):
        plan.check(ParamsTree(wider))
    trained = jax.tree.map(lambda leaf: leaf + np.ones_like(leaf), variables)
    with pytest.raises(CollapseError, match="act_0: the plan was made for other weights"):
        plan.check(ParamsTree(trained))
    with pytest.raises(CollapseError, match="got sites act_0, which this model lacks; it has b/a"):
        plan.check(ParamsTree({"b": variables["params"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{}", "got a JSON object, expected an object with"),
        (lambda text: text[:-2], "is not valid JSON"),
        (lambda text: text.replace('fits": 1', 'fits": 7'), "its format is 7, and this lcjax"),
        (lambda text: text.replace('"units"', '"half"'), "fit of act_0: got 'half', expected"),
        (lambda text: text.replace('"widths": [', '"widths": [null, '), "expected a list of int"),
        (lambda text: text.replace('"sites": {', '"sites": [], "": {'), "sites is a JSON array"),
    ],
)
def test_a_damaged_plan_file_is_refused(change, message, tmp_path):
    _, variables = random_chain((8, 3), 4)
    (tmp_path / "plan.json").write_text(change(plan_of(variables).to_json()))
    with pytest.raises(ValueError, match=message):
        PlanFile.load(tmp_path / "plan.json")
