"""Methods that compress a network, healed through one harness and command line."""

import sys

import pytest

import lcjax
from benchmarks.baselines import __main__ as command_line
from benchmarks.baselines import base
from benchmarks.baselines.registry import REGISTRY
from tests.helpers.runs import configured
from train.config.base import as_json
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import SUMMARY, create_directory, read_json, write_json
from train.runs import conclude as outcome
from train.runs.finished import DEEP
from train.tasks.image import task as image_task


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    "method", ["linear", "units", "plan", "plan-influence", "variance", "whitened"]
)
def test_methods_are_healed_alike_to_the_size_asked_for(method, tmp_path, monkeypatch):
    monkeypatch.setattr(
        outcome, "evaluate_in_new_process", lambda *_: {"accuracy": 1.0, "loss": 0.0}
    )
    config = configured(hidden=(32, 24), protocol="fit-heal", heal_epochs=3.0, runs_dir=tmp_path)
    task = image_task.make_task(config)
    create_directory(tmp_path / "run", as_json(config))
    lcjax.save(tmp_path / "run" / DEEP, task.variables)
    fused, _ = lcjax.abstract_collapse(task.variables, ["mlp/act_1"])
    size = lcjax.count_parameters(fused)
    whole = {"collapsed": ["mlp/act_1"], "compact": {"parameters": size}}
    write_json(tmp_path / "run" / SUMMARY, whole)
    command = base.BaselineConfig(
        tmp_path / "run",
        runs_dir=tmp_path,
        name=method,
        heal_epochs=0.3,
        heal_learning_rate=3e-3,
        deep_teacher=True,
        calibration_images=256,
    )
    base.heal(command, REGISTRY[method].compress)
    summary = read_json(tmp_path / method / SUMMARY)
    left = summary["compact"]["parameters"] - summary.get("removed", 0)
    assert 0.9 * size < left <= size
    assert ("removed" in summary) == ("materialized" in summary) == (method == "whitened")
    assert summary["steps"] == task.steps_in(0.3) > 0
    records = [each for each in read_metrics(tmp_path / method) if "train/loss" in each]
    assert records and all("train/divergence" in record for record in records)


def test_command_line_names_the_methods(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["baselines", "flop"])
    with pytest.raises(SystemExit, match="got 'flop', expected one of linear, units, plan, "):
        command_line.main()
