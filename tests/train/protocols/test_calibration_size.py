"""The warning about too few calibration tokens before a fit."""

import dataclasses

import pytest

import lcjax
from lcjax.calibration import statistics
from tests.helpers.runs import configured, prepare
from train.protocols.calibration_size import count_tokens, warn_if_too_few_tokens
from train.protocols.fitting import calibration_data, make_plan


@pytest.fixture(scope="module")
def task():
    small = {"hidden": (16, 16), "protocol": "fit-heal", "calibration_images": 64, "count": 1}
    return prepare(configured(**small)).task


def test_too_few_tokens_for_a_site_warn(task, capsys):
    sites = lcjax.find_sites(task.variables).paths
    warn_if_too_few_tokens(task, task.config.protocol, task.variables, sites)
    said = capsys.readouterr().err
    assert said.startswith("warning: calibration has 64 tokens for the 64 inputs of mlp/act_0; ")
    assert "expected at least 256" in said and "Raise --calibration-images (64 now)" in said


def test_enough_tokens_or_another_fit_do_not_warn(task, capsys):
    warn_if_too_few_tokens(task, task.config.protocol, task.variables, ("mlp/act_1",))
    per_unit = dataclasses.replace(task.config.protocol, fit="per_unit")
    sites = lcjax.find_sites(task.variables).paths
    warn_if_too_few_tokens(task, per_unit, task.variables, sites)
    assert capsys.readouterr().err == ""


def test_count_tokens_agrees_with_the_calibration(task):
    sites = lcjax.find_sites(task.variables).paths
    tokens = count_tokens(task, task.variables, sites)
    for site in sites:
        data = calibration_data(task)
        stats = lcjax.calibrate(
            task.classifier.logits, task.variables, data, [site], lcjax.LeastSquares()
        )
        counts = [int(m.count) for part in (stats.train, stats.held_out) for m in part.values()]
        assert sum(counts) == tokens[site]


def test_make_plan_prints_its_work_with_bars_and_warns(task, monkeypatch, capsys):
    monkeypatch.setattr(statistics, "_SHOW_AFTER_S", 0.0)
    settings = task.config.protocol
    assert len(make_plan(task, settings, task.variables, settings.size_budget()).sites) == 1
    said = capsys.readouterr()
    assert "planning: 2 sites, each collapsed on trial and measured on 144 examples" in said.out
    assert "warning: calibration has 64 tokens" in said.err
    assert "measuring sites" in said.err and "planning" in said.err
