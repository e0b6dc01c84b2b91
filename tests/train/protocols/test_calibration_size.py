"""Few calibration data are said before a fit."""

import pytest

import lcjax
from lcjax.calibration import statistics as gathering
from tests.helpers.runs import configured
from train import image
from train.protocols.calibration_size import count_tokens, warn_if_too_few_tokens
from train.protocols.site_plan import make_plan


@pytest.fixture(scope="module")
def task():
    small = {"hidden": (16, 16), "protocol": "fit-heal", "calibration_images": 64, "count": 1}
    return image.prepare(configured(**small)).task


def test_fewer_tokens_than_a_fit_needs_are_said(task, capsys):
    warn_if_too_few_tokens(task, task.variables, None)
    said = capsys.readouterr().err
    assert said.startswith("warning: calibration has 64 tokens for the 64 inputs of mlp/dense_0; ")
    assert "expected at least 256" in said and "Raise --calibration-images (64 now)" in said


def test_enough_are_not_spoken_of(task, capsys):
    warn_if_too_few_tokens(task, task.variables, "mlp/act_1")  # 16 inputs
    assert capsys.readouterr().err == ""


def test_tokens_are_those_that_a_calibration_counts(task):
    stats = lcjax.calibrate(task.classifier.logits, task.variables, task.calibration)
    (run,) = stats.runs
    counted = stats.fitted[run.last].count + stats.held[run.last].count
    assert count_tokens(task, task.variables, [run.first]) == {run.first: int(counted)}


def test_a_plan_says_how_much_it_has_to_do_and_shows_a_bar(task, monkeypatch, capsys):
    monkeypatch.setattr(gathering, "_SHOW_AFTER_S", 0.0)
    assert len(make_plan(task, task.variables).sites) == 1
    said = capsys.readouterr()
    assert "planning: 2 sites, each collapsed on trial and measured on 144 examples" in said.out
    assert "measuring sites" in said.err and "planning" in said.err
