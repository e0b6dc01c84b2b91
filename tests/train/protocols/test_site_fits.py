"""fit-heal with a fit for every site: units kept everywhere, plan files, mixes."""

import json

import jax
import numpy as np
import pytest

import lcjax
from lcjax.algebra.abstract import shapes_of
from lcjax.cli.command import main as lcjax_main
from lcjax.planning.plan_file import PlanFile, PlannedSite
from lcjax.structure.params_tree import ParamsTree
from tests.helpers.runs import configured, evaluate_here, main, prepare, same_bits
from train.config.base import as_json
from train.engine.checkpoints import Snapshots
from train.engine.metrics_writer import FILE
from train.engine.run_directory import create_directory, read_json
from train.engine.stages import first_variables
from train.evaluate import evaluate
from train.protocols.fit_heal import PLAN
from train.runs.command import train_job
from train.runs.conclude import conclude
from train.validation import ConfigError

pytestmark = pytest.mark.promotes

SMALL = {
    "preset": "digits-mlp",
    "protocol": "fit-heal",
    "hidden": (32, 24, 16),
    "learning_rate": 1e-2,
    "epochs": 2,
    "steps_per_dispatch": 10,
    "checkpoint_every": 7,
    "calibration_images": 512,
    "heal_epochs": 0.6,
}
UNITS = SMALL | {"fit": "units", "keep_units": 0.25}
SITES = ("mlp/act_0", "mlp/act_1", "mlp/act_2")


def ran(directory, **fields):
    """Trains in a directory, or goes on there; returns the job and what it came to."""
    job = prepare(configured(**fields))
    if not directory.exists():
        create_directory(directory, as_json(job.task.config))
    return job, train_job(job, directory)


def widths(variables):
    return [site.d_hidden for site in lcjax.find_sites(variables)]


def plan_of(variables, fits):
    model, sites = ParamsTree(variables), {}
    for site, fit in fits.items():
        (segment,) = model.segments([site])
        sites[site] = PlannedSite(fit, segment.widths, segment.weights)
    return PlanFile(sites)


def test_units_over_the_width_of_a_site_are_refused_before_training():
    with pytest.raises(ConfigError, match="--keep-units is 20, but mlp/act_2 has 16 units"):
        prepare(configured(**UNITS | {"keep_units": 20}))


@pytest.mark.slow
def test_plans_that_do_not_fit_the_run_are_refused_before_training(tmp_path):
    deep = prepare(configured(**SMALL)).task.variables
    file = tmp_path / "plan.json"
    fits = {"mlp/act_0": lcjax.Units(4)}
    for plan, message in (
        (plan_of(deep, fits), "a plan of a finished model's weights; expected its run as --from"),
        (plan_of(shapes_of(deep), {"mlp/act_0": None}), "which keeps every site"),
        (PlanFile({"mlp/act_0": PlannedSite(lcjax.Units(4), (64, 8, 24))}), "is for layers"),
        (PlanFile({"mlp/act_7": PlannedSite(lcjax.Units(4), (64, 8, 24))}), "this model lacks"),
    ):
        plan.save(file)
        with pytest.raises(ConfigError, match=message):
            prepare(configured(**SMALL, plan=file))
    with pytest.raises(ConfigError, match="--plan: .*missing.json"):
        prepare(configured(**SMALL, plan=tmp_path / "missing.json"))


@pytest.mark.slow
@pytest.mark.parametrize("linear", [False, True])
def test_fit_units_keeps_a_fraction_of_every_site_in_multiples(tmp_path, capsys, linear):
    job, result = ran(tmp_path / "a", **UNITS, linear=linear)
    assert widths(result.deep) == [32, 24, 16] and widths(result.compact) == [8, 8, 8]
    assert result.collapsed == ()
    fits = result.extra["fits"]
    assert fits["mlp/act_0"] == {"fit": "units", "count": 8} | ({"linear": True} if linear else {})
    assert tuple(fits) == SITES
    begun = first_variables(tmp_path / "a", 1)
    kernels = ["kernel" in begun["params"]["mlp"][f"bypass_{i}"] for i in range(3)]
    assert kernels == [linear] * 3
    assert "mlp/act_0" in capsys.readouterr().out
    assert job.task.scores(result.compact)["loss"] < job.task.scores(begun)["loss"]


@pytest.mark.slow
def test_units_kept_of_chosen_sites_only(tmp_path):
    _, result = ran(tmp_path / "a", **UNITS | {"keep_units": 8, "last": 1})
    assert widths(result.compact) == [32, 24, 8]


@pytest.mark.slow
def test_a_run_with_kept_units_that_breaks_off_ends_bit_for_bit_the_same(tmp_path, monkeypatch):
    _, whole = ran(tmp_path / "whole", **UNITS)
    saved, broke = [0], 0
    save = Snapshots.save

    def interrupted(self, *args, **kwargs):
        save(self, *args, **kwargs)
        saved[0] += 1
        if saved[0] % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Snapshots, "save", interrupted)
    while True:
        try:
            _, result = ran(tmp_path / "broken", **UNITS)
            break
        except KeyboardInterrupt:
            broke += 1
    assert broke >= 2
    same_bits(result.compact, whole.compact)
    lines = [(tmp_path / name / FILE).read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_plan_of_a_finished_run_is_carried_out(tmp_path, monkeypatch):
    evaluate_here(monkeypatch)
    _, first = ran(tmp_path / "a", **SMALL | {"epochs": 1, "heal_epochs": 0.0, "count": 1})
    lcjax.save(tmp_path / "a" / "deep", first.deep)
    fits = {"mlp/act_0": lcjax.Units(8), "mlp/act_1": None, "mlp/act_2": lcjax.LeastSquares()}
    plan_of(first.deep, fits).save(tmp_path / "plan.json")
    run = SMALL | {"deep": tmp_path / "a", "plan": tmp_path / "plan.json"}
    job, result = ran(tmp_path / "b", **run)
    assert set(result.extra["fits"]) == {"mlp/act_0", "mlp/act_2"}
    assert widths(result.compact) == [8, 24]
    assert result.collapsed == ("mlp/act_2",)
    conclude(job.task, result, tmp_path / "b")
    plan_of(jax.tree.map(lambda leaf: leaf + 1, first.deep), fits).save(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="--plan: mlp/act_0: the plan was made for other weights"):
        prepare(configured(**run))


@pytest.mark.slow
def test_a_mix_reaches_the_number_of_parameters(tmp_path, capsys):
    job, result = ran(tmp_path / "a", **SMALL, fit="mix", target_params=0.5)
    sizes = [lcjax.count_parameters(tree) for tree in (result.deep, result.compact)]
    assert sizes[1] <= 0.5 * sizes[0]
    assert "budget Params(0.5): met" in capsys.readouterr().out
    fits = PlanFile.load(tmp_path / "a" / PLAN).fits
    assert set(result.extra["fits"]) == set(fits)
    with pytest.raises(ConfigError, match="--fit mix: "):
        ran(tmp_path / "b", **SMALL, fit="mix", target_params=10)


@pytest.mark.slow
def test_students_of_a_run_with_kept_units_have_its_widths(tmp_path, monkeypatch):
    evaluate_here(monkeypatch)
    job, result = ran(tmp_path / "a", **UNITS, linear=True)
    conclude(job.task, result, tmp_path / "a")
    plain = {"slope_learning_rate": 0.0, "strength": 0.0, "collapsed_from": tmp_path / "a"}
    hidden = SMALL["hidden"]
    student = prepare(configured(hidden=hidden, **plain)).state.variables
    assert jax.tree.map(np.shape, student) == jax.tree.map(np.shape, result.compact)
    kernel = student["params"]["mlp"]["dense_0"]["kernel"]
    assert not np.allclose(kernel, result.compact["params"]["mlp"]["dense_0"]["kernel"])
    assert not np.any(student["params"]["mlp"]["bypass_0"]["bias"])


@pytest.mark.slow
def test_the_command_keeps_units_of_a_mixer_from_end_to_end(tmp_path, monkeypatch, capsys):
    flags = ["--protocol", "fit-heal", "--fit", "units", "--keep-units", "0.25"]
    flags += ["--depth", "1", "--epochs", "1", "--heal-epochs", "1", "--calibration-images", "64"]
    flags += ["--runs-dir", tmp_path, "--name", "a"]
    main(monkeypatch, "digits-mixer", *flags)
    shown = capsys.readouterr().out
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["compact"]["parameters"] < summary["deep"]["parameters"]
    (fits,) = summary["fits"].items()
    assert fits == ("block_0/mlp_2_channels/act_0", {"fit": "units", "count": 64})
    assert fits[0] in shown
    assert json.loads((tmp_path / "a" / "config.json").read_text())["protocol"]["fit"] == "units"
    compact = lcjax.restore(tmp_path / "a" / "compact")
    assert widths(compact) == [32, 64]
    restored = summary["compact"]["restored"]  # in another process
    assert evaluate(tmp_path / "a" / "compact") == pytest.approx(restored, rel=1e-6)
    lcjax_main(["export", str(tmp_path / "a" / "compact"), str(tmp_path / "b"), "--platforms=cpu"])
    lcjax_main(["inspect", str(tmp_path / "a" / "compact")])
    assert "block_0/mlp_2_channels/act_0 became 64 hidden units" in capsys.readouterr().out
