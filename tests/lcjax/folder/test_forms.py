"""The forms of layers in config.json, and how many weights they have."""

import pytest

import lcjax
from lcjax.errors import WeightsError
from lcjax.folder.fitting.forms import Form, form_of, forms_from_config, forms_to_json

CASES = [
    (None, Form("deep", 48)),
    (lcjax.Units(48), Form("deep", 48)),
    (lcjax.Units(8), Form("units", 8)),
    (lcjax.LeastSquares() + lcjax.Units(8), Form("units", 8, linear=True)),
    (lcjax.LeastSquares() + lcjax.Units(0), Form("linear", 0)),
    (lcjax.LeastSquares(), Form("linear", 0)),
    (lcjax.Units(0), Form("constant", 0)),
    (lcjax.Remove(), Form("constant", 0)),
]


@pytest.mark.parametrize("fit, form", CASES)
def test_form_of_a_fit(fit, form):
    assert form_of(fit, 48) == form


def test_forms_of_a_config_are_those_that_were_written():
    forms = [form for _, form in CASES]
    config = {"lcjax_forms": forms_to_json(forms)}
    assert forms_from_config(config, len(forms), 48) == forms
    assert forms_from_config({}, 2, 48) == [Form("deep", 48)] * 2


@pytest.mark.parametrize("fit", [lcjax.Units(49), lcjax.PerUnit(), lcjax.LeastSquares(rank=2)])
def test_fit_without_a_form_is_refused(fit):
    with pytest.raises(ValueError, match="plan: got"):
        form_of(fit, 48)


WRONG = {
    "version": {"version": 2, "layers": [{"form": "linear", "width": 0, "linear": False}]},
    "depth": {"version": 1, "layers": []},
    "kind": {"version": 1, "layers": [{"form": "other", "width": 0, "linear": False}]},
    "width": {"version": 1, "layers": [{"form": "units", "width": 99, "linear": False}]},
    "type": [1],
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_forms_are_refused(name):
    with pytest.raises(WeightsError, match=r"config\.json, lcjax_forms"):
        forms_from_config({"lcjax_forms": WRONG[name]}, 1, 48)


def test_parameters_of_forms():
    gated = dict(width=16, readers=2, biases=0, bias=False)
    plain = dict(width=16, readers=1, biases=1, bias=True)
    assert Form("deep", 48).parameters(**gated) == 3 * 16 * 48
    assert Form("units", 8).parameters(**plain) == 2 * 16 * 8 + 8 + 16
    assert Form("units", 8, True).parameters(**plain) == 2 * 16 * 8 + 8 + 16 + 16 * 16
    assert Form("linear", 0).parameters(**gated) == 16 * 16 + 16
    assert Form("constant", 0).parameters(**gated) == 16
