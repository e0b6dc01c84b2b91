"""The protocols from end to end on digits, and that runs of several stages resume bit for bit."""

import json
import math
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from tests.helpers.runs import (
    checkpoints,
    command_line,
    configured,
    evaluate_here,
    main,
    prepare,
    same_bits,
    start,
    wait_for,
)
from train.config.base import as_json
from train.config.check import check
from train.engine.checkpoints import Snapshots
from train.engine.metrics_writer import FILE, read_metrics
from train.engine.run_directory import create_directory, read_json
from train.engine.stages import first_variables
from train.runs.command import train_job
from train.runs.conclude import conclude
from train.runs.kept_models import list_models
from train.validation import ConfigError

SMALL = {
    "hidden": (32, 24, 16),
    "learning_rate": 1e-2,
    "epochs": 2,
    "steps_per_dispatch": 10,
    "checkpoint_every": 7,
}
SHORT = pytest.mark.filterwarnings("ignore:.*cannot bring")
CALIBRATED = {"calibration_images": 512}
FIT_HEAL = CALIBRATED | {
    "protocol": "fit-heal",
    "count": 2,
    "heal_epochs": 0.6,
    "deep_teacher": True,
}
PROGRESSIVE = CALIBRATED | {
    "protocol": "progressive",
    "last": 2,
    "max_drop": 1.0,
    "stage_epochs": 0.75,
    "heal_epochs": 0.5,
    "strength": 0.5,
    "slope_learning_rate": 0.3,
}


def ran(directory, **fields):
    """Trains in a directory, or goes on there; returns the job and what it came to."""
    job = prepare(configured(**SMALL | fields))
    if not directory.exists():
        create_directory(directory, as_json(job.task.config))
    return job, train_job(job, directory)


def slopes(variables):
    return [site.slope for site in lcjax.find_sites(variables)]


def kernels(variables):
    mlp = variables["params"]["mlp"]
    return {name: mlp[name]["kernel"].shape for name in mlp if name.startswith("dense")}


@pytest.mark.slow
@pytest.mark.promotes
def test_anneal_brings_the_chosen_sites_to_1_when_it_says(tmp_path):
    _, result = ran(tmp_path / "a", protocol="anneal", last=2, start=0.25, anneal_fraction=0.5)
    assert slopes(result.deep) == [0, 1, 1]
    assert result.collapsed == ("mlp/act_1", "mlp/act_2")
    assert kernels(result.compact) == {"dense_0": (64, 32), "dense_3": (32, 10)}
    records = {
        r["step"]: r["slope/mlp/act_1"] for r in read_metrics(tmp_path / "a") if "train/loss" in r
    }
    assert records[10] == 0 and records[20] == pytest.approx(0.5) and records[30] == 1


@pytest.mark.slow
@pytest.mark.promotes
@SHORT
def test_ramp_keeps_a_compact_model_at_every_arrival(tmp_path):
    job, result = ran(
        tmp_path / "a", protocol="ramp", epochs=4, strength=3.0, slope_learning_rate=0.3
    )
    assert len(result.kept_models) >= 2
    seen = []
    for entry in result.kept_models:
        assert entry["collapsed"] not in seen
        seen.append(entry["collapsed"])
        compact = lcjax.restore(tmp_path / "a" / entry["path"])
        assert lcjax.find_sites(compact).paths == tuple(
            path for path in ("mlp/act_0", "mlp/act_1", "mlp/act_2") if path not in seen[-1]
        )
        assert entry["validation"]["accuracy"] == job.task.score(compact)
    sizes = [entry["parameters"] for entry in result.kept_models]
    assert sizes[-1] < sizes[0] and result.kept_models[0]["step"] < result.kept_models[-1]["step"]


@pytest.mark.slow
@pytest.mark.promotes
def test_units_that_are_linear_from_the_start_fold_at_the_end(tmp_path):
    fields = {"slope_per": "unit", "linear_units": 0.75, "slope_learning_rate": 0.0}
    job, result = ran(tmp_path / "a", **fields)
    records = [r for r in read_metrics(tmp_path / "a") if "train/loss" in r]
    assert {r["linear_units/mlp/act_0"] for r in records} == {24}
    assert {r["slope/mlp/act_0"] for r in records} == {0.75}
    assert result.extra["kept_units"]["mlp/act_0"] == 8
    assert lcjax.count_parameters(result.compact) < lcjax.count_parameters(result.deep)
    scores = (job.task.scores(form)["loss"] for form in (result.deep, result.compact))
    np.testing.assert_allclose(*scores, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.promotes
def test_reference_swaps_prelus_in_and_has_the_penalty_in_the_loss():
    fields = {"protocol": "paper", "last": 2, "activation": "gelu"}
    config = configured(**SMALL | fields, strength=3.0)
    job = prepare(config)
    assert job.task.config.model.activation == "relu"
    assert slopes(job.state.variables) == [0, *[pytest.approx(0.01)] * 2]
    stage = job.protocol.stage(None, [])
    batch = stage.source.fetch(stage.source.arrays, next(stage.source.inputs(0))[0])
    args = (job.state.params, job.state.stats, batch, jax.random.key(0))
    penalty = stage.loss(*args)[0] - job.task.classifier.loss(*args)[0]
    np.testing.assert_allclose(penalty, 3.0 * 2 * 0.99**2, rtol=1e-4)
    grads = jax.grad(lambda p: stage.loss(p, *args[1:])[0])(job.state.params)
    params, state = job.state.params, job.state.opt_state
    for _ in range(5):
        updates, state = stage.tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    got = slopes({"params": params})
    assert got[0] == 0 and all(slope > 0.01 for slope in got[1:])


@pytest.mark.slow
@pytest.mark.promotes
def test_fit_heal_plans_collapses_and_trains_on(tmp_path, capsys):
    job, result = ran(tmp_path / "a", **FIT_HEAL)
    assert "budget Count(2): met" in capsys.readouterr().out
    facts = result.extra["fit_heal"]
    plan = lcjax.Plan.from_json(json.dumps(facts["plan"]))
    assert result.collapsed == plan.sites and len(plan.sites) == 2
    begun = first_variables(tmp_path / "a", 1)
    stats = lcjax.calibrate(
        job.task.classifier.logits,
        result.deep,
        lcjax.CalibrationData(job.task.calibration),
        plan.sites,
        lcjax.LeastSquares(sequential=False),
    )
    same_bits(begun, jax.device_get(lcjax.collapse(result.deep, calibration=stats)[0]))
    assert facts["validation"]["accuracy"] == plan.steps[-1].metric == job.task.score(begun)
    assert job.task.scores(result.compact)["loss"] < job.task.scores(begun)["loss"]
    records = [r for r in read_metrics(tmp_path / "a") if "train/loss" in r]
    assert [r["step"] for r in records] == [10, 20, 30, 40, 50, 52]
    assert ["train/divergence" in r for r in records] == [False] * 4 + [True] * 2
    assert slopes(result.deep) == [0, 0, 0]


@SHORT
@pytest.mark.slow
@pytest.mark.promotes
def test_progressive_goes_from_the_last_site_backwards(tmp_path):
    job, result = ran(tmp_path / "a", **PROGRESSIVE)
    assert [entry["collapsed"] for entry in result.kept_models] == [
        ["mlp/act_2"],
        ["mlp/act_1", "mlp/act_2"],
    ]
    assert result.collapsed == ("mlp/act_1", "mlp/act_2")
    assert kernels(result.compact) == {"dense_0": (64, 32), "dense_3": (32, 10)}
    assert slopes(result.deep) == [0, 0, 0]
    first = first_variables(tmp_path / "a", 2)
    assert lcjax.find_sites(first).paths == ("mlp/act_0", "mlp/act_1")
    assert slopes(first)[0] == 0, "a site moves in its own stage alone"
    assert job.task.scores(first) == result.kept_models[0]["validation"]


@pytest.mark.slow
@pytest.mark.promotes
@SHORT
@pytest.mark.parametrize("kept_stages", [0, 1])
def test_progressive_keeps_the_model_from_before_the_drop(tmp_path, monkeypatch, kept_stages):
    """Accuracies are made up: the stage after `kept_stages` loses 2 points."""
    job = prepare(configured(**SMALL, **PROGRESSIVE | {"max_drop": 0.01}))
    lost = {3: 0.9, 2: 0.895 if kept_stages else 0.88, 1: 0.88}

    def scores(self, variables):
        return {"accuracy": lost[len(lcjax.find_sites(variables))], "loss": 0.0}

    monkeypatch.setattr(type(job.task), "scores", scores)
    create_directory(tmp_path / "a", {})
    result = train_job(job, tmp_path / "a")
    assert result.collapsed == ("mlp/act_2",) * kept_stages
    if kept_stages:
        assert (
            "was 2.00 points below that of the deep model; --max-drop 0.01 allows 1.00"
            in result.report_text
        )
        assert result.extra["progressive"]["too_far"]["collapsed"] == ["mlp/act_1", "mlp/act_2"]
    else:
        assert "so nothing was collapsed" in result.report_text
        same_bits(result.compact, result.deep)


@SHORT
@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("fields", [FIT_HEAL, PROGRESSIVE], ids=["fit-heal", "progressive"])
def test_it_ends_bit_for_bit_where_it_does_whole_wherever_it_breaks_off(
    fields, tmp_path, monkeypatch
):
    _, whole = ran(tmp_path / "whole", **fields)
    save, commit = Snapshots.save, lcjax.save
    left = [0]

    def counted(call):
        def interrupted(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        return interrupted

    broke, saves = 0, 2
    while True:  # before the second save, the third after that, the second, and so on
        left[0] = saves
        with monkeypatch.context() as patch:
            patch.setattr(Snapshots, "save", counted(save))
            patch.setattr(lcjax, "save", counted(commit))
            try:
                _, result = ran(tmp_path / "broken", **fields)
                break
            except KeyboardInterrupt:
                broke, saves = broke + 1, 5 - saves
    assert broke >= 4
    same_bits(result.compact, whole.compact)
    same_bits(result.deep, whole.deep)
    lines = [(tmp_path / name / FILE).read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.promotes
@SHORT
def test_a_ramp_that_broke_off_keeps_the_same_models(tmp_path):
    fields = {"protocol": "ramp", "epochs": 4, "strength": 3.0, "slope_learning_rate": 0.3}
    _, whole = ran(tmp_path / "a", **fields)
    steps = checkpoints(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints" / str(steps[-1]))
    before = {
        e["step"]: lcjax.restore(tmp_path / "a" / e["path"]) for e in list_models(tmp_path / "a")
    }
    _, again = ran(tmp_path / "a", **fields)
    assert again.kept_models == whole.kept_models
    for entry in again.kept_models:
        same_bits(lcjax.restore(tmp_path / "a" / entry["path"]), before[entry["step"]])


@pytest.mark.slow
@pytest.mark.promotes
def test_from_starts_where_another_run_ended(tmp_path, monkeypatch):
    _, result = ran(tmp_path / "a", protocol="anneal", epochs=1, anneal_fraction=1.0)
    lcjax.save(tmp_path / "a" / "deep", result.deep)
    job, plain = ran(
        tmp_path / "b", protocol="fit-heal", count=1, heal_epochs=0, deep=tmp_path / "a"
    )
    same_bits(plain.deep, result.deep)
    assert int(job.state.step) == 0 and read_metrics(tmp_path / "b") == []
    same_bits(plain.compact, first_variables(tmp_path / "b", 1))
    with pytest.raises(ValueError, match="checkpoint and like differ"):
        prepare(configured(**SMALL | {"hidden": (8,)}, deep=tmp_path / "a"))
    with pytest.raises(ConfigError, match="does not exist; expected a finished run"):
        prepare(configured(**SMALL, deep=tmp_path / "c"))


@pytest.mark.slow
@pytest.mark.promotes
def test_anneal_takes_the_sites_that_cost_a_finished_model_least(tmp_path):
    _, deep = ran(tmp_path / "a", strength=0.0, slope_learning_rate=0.0)
    lcjax.save(tmp_path / "a" / "deep", deep.deep)
    chosen = {"count": 1, "deep": tmp_path / "a"}
    _, healed = ran(tmp_path / "b", protocol="fit-heal", heal_epochs=0, **chosen)
    job, result = ran(tmp_path / "c", protocol="anneal", **chosen)
    assert result.collapsed == healed.collapsed and len(result.collapsed) == 1
    assert "sensitivity" in result.report_text and "one matrix" in result.report_text
    same_bits(job.task.variables, deep.deep)


@pytest.mark.slow
@pytest.mark.promotes
def test_anneal_takes_the_last_sites_of_a_new_model(tmp_path):
    _, result = ran(tmp_path / "a", protocol="anneal", count=1)
    shapes = {"dense_0": (64, 32), "dense_1": (32, 24), "dense_3": (24, 10)}
    assert kernels(result.compact) == shapes


@pytest.mark.slow
@pytest.mark.promotes
def test_students_and_compact_topologies_from_scratch(tmp_path, monkeypatch):
    evaluate_here(monkeypatch)
    job, result = ran(tmp_path / "a", protocol="anneal", last=2)
    conclude(job.task, result, tmp_path / "a")
    plain = {"slope_learning_rate": 0.0, "strength": 0.0, "collapsed_from": tmp_path / "a"}
    scratch = prepare(configured(**SMALL, **plain))
    assert kernels(scratch.state.variables) == {"dense_0": (64, 32), "dense_3": (32, 10)}
    kernel = scratch.state.params["mlp"]["dense_3"]["kernel"]
    assert math.sqrt(2 / 32) * 0.8 < float(jnp.std(kernel)) < math.sqrt(2 / 32) * 1.2
    _, student = ran(tmp_path / "b", **plain, teacher=tmp_path / "a")
    records = [r for r in read_metrics(tmp_path / "b") if "train/loss" in r]
    assert records[-1]["train/divergence"] < records[0]["train/divergence"]
    assert kernels(student.compact) == kernels(result.compact)
    with pytest.raises(ConfigError, match="expected .*'image_size': 16.* for a teacher"):
        prepare(configured(**SMALL, image_size=16, teacher=tmp_path / "a"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"protocol": "fit-heal", "teacher": "a", "deep_teacher": True},
            "--teacher and --deep-teacher are both set",
        ),
        ({"collapsed_from": "a", "deep": "b"}, "--collapsed-from and --from are both set"),
        (
            {"protocol": "fit-heal", "count": 1, "target_params": 0.5},
            "--count and --target-params are both set",
        ),
        ({"protocol": "anneal", "target_params": 0.5}, "expected its run as --from, or --count, "),
        (
            {"protocol": "anneal", "start": 0.8},
            "--start is 0.8 and --anneal-fraction 0.3; expected",
        ),
    ],
)
def test_flags_that_exclude_each_other_are_an_error(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(configured(**fields))


@pytest.mark.slow
@pytest.mark.promotes
@SHORT
def test_a_process_killed_in_its_second_stage_is_resumed_bit_for_bit(tmp_path):
    fields = FIT_HEAL | {"heal_epochs": 8.0, "strength": 0.001}
    config = configured(**SMALL | fields, name="a", runs_dir=tmp_path)
    broken = tmp_path / "a"
    killed = start(*command_line(config))
    wait_for(lambda: len(checkpoints(broken / "stages" / "1")) > 1, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = start(*command_line(config), "--resume")
    said, complained = resumed.communicate()
    assert resumed.returncode == 0, complained
    _, whole = ran(tmp_path / "whole", **fields)
    same_bits(lcjax.restore(broken / "compact"), jax.device_get(whole.compact))
    same_bits(lcjax.restore(broken / "deep"), jax.device_get(whole.deep))
    assert (broken / FILE).read_text() == (tmp_path / "whole" / FILE).read_text()
    summary = read_json(broken / "summary.json")
    assert tuple(summary["collapsed"]) == whole.collapsed and len(whole.collapsed) == 2


@SHORT
@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("protocol", ["ramp", "anneal", "paper", "progressive", "fit-heal"])
def test_every_protocol_runs_from_the_command_line(protocol, tmp_path, monkeypatch, capsys):
    evaluate_here(monkeypatch)
    config = configured(**SMALL, protocol=protocol, last=2, name="a", runs_dir=tmp_path)
    main(monkeypatch, *command_line(config))
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["protocol"] == protocol
    assert summary["compact"]["restored"] == summary["compact"]["test"]
    assert f"protocol {protocol}" in capsys.readouterr().out
