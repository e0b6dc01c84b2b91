"""`python -m train.image` from end to end, on digits and on a set that is streamed from disk."""

import dataclasses
import json
import os
import re
import resource
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.prepared import prepare_set
from tests.helpers.runs import (
    checkpoints,
    command_line,
    configured,
    evaluate_here,
    events,
    fit,
    interrupt_after,
    kill_and_resume,
    last_state,
    main,
    prepare,
    same_bits,
    start,
    wait_for,
)
from train.config.base import as_json
from train.data.images import in_memory as array_sets
from train.data.tfds import locate as tfds_find
from train.engine.loop import SLOPE
from train.engine.metrics_writer import FILE, MetricsWriter, read_metrics
from train.engine.run_directory import create_directory, read_json
from train.runs import conclude as outcome
from train.runs.conclude import conclude
from train.tasks.image.presets import PRESETS

REAL = os.environ.get("TFDS_DATA_DIR")
# Small, and so strong that after two epochs of digits slopes are at 1.
SMALL = {
    "epochs": 2,
    "hidden": (32, 16),
    "learning_rate": 1e-2,
    "strength": 0.3,
    "slope_learning_rate": 0.2,
}
RANDOM = {"dropout": 0.2, "crop_padding": 1, "flip": True}


def flags(**fields):
    """Returns fields as flags of the command line."""
    found = []
    for name, value in fields.items():
        found.append(f"--{name.replace('_', '-')}")
        if value is not True:
            found += map(str, value if isinstance(value, list | tuple) else (value,))
    return found


@pytest.fixture(scope="session")
def varied_dir(tmp_path_factory):
    """A set whose pictures vary in size, so that it is streamed."""
    root = tmp_path_factory.mktemp("tfds")
    prepare_set(root, "varied", shape=(None, None, 3), splits={"train": 30, "test": 6})
    return root


# One whole run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in a process of its own: its directory, and what it printed on stdout."""
    runs = tmp_path_factory.mktemp("runs")
    process = start("digits-mlp", *flags(**SMALL, dropout=0.1, name="a", runs_dir=runs))
    said, complained = process.communicate()
    assert process.returncode == 0, complained
    assert "training: 100%" in complained and "40/40" in complained
    return runs / "a", said


def test_everything_is_in_the_runs_directory(finished):
    directory, _ = finished
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "compact",
        "deep",
        "picture.png",
        "summary.txt",
        "summary.json",
    }
    assert [path.name for path in directory.parent.iterdir()] == ["a"]
    config = configured(**SMALL, dropout=0.1, name="a", runs_dir=directory.parent)
    assert read_json(directory / "config.json") == as_json(config)


def test_it_prints_the_tables_that_it_keeps(finished):
    directory, said = finished
    text = (directory / "summary.txt").read_text()
    assert said.endswith(text)
    intro = said.removesuffix(text)
    assert "2 epochs of 20 steps, batch 64, l1 strength 0.3" in intro
    assert "digits: 1,293 to train on, 144 to validate, 8×8×1, 10 classes" in intro
    assert "2,778 parameters, 2 sites, float32 on cpu" in intro
    for words in (
        "mlp/act_0",
        "one matrix",
        "test accuracy",
        "FLOPs an image",
        "latency, batch 64",
    ):
        assert words in text
    summary = read_json(directory / "summary.json")
    percent = f"{100 * summary['compact']['restored']['accuracy']:.2f} %"
    assert f"restored in a fresh process: test accuracy {percent}" in text


def test_metrics_hold_loss_accuracy_and_every_slope(finished):
    directory, _ = finished
    records = read_metrics(directory)
    steps = [record for record in records if "train/loss" in record]
    assert [record["step"] for record in steps] == [10, 20, 30, 40]
    names = {"step", "train/loss", "train/accuracy", "slope/mlp/act_0", "slope/mlp/act_1"}
    assert all(set(record) == names for record in steps)
    checks = [record for record in records if "validation/loss" in record]
    assert [record["step"] for record in checks] == [20, 40]
    assert checks[-1]["validation/accuracy"] > 0.5
    lines = [(r["step"], name, v) for r in records for name, v in r.items() if name != "step"]
    shown = events(directory)
    assert [each[:2] for each in shown] == [each[:2] for each in lines]
    np.testing.assert_allclose([e[2] for e in shown], [e[2] for e in lines], rtol=1e-6)


@pytest.fixture(scope="module")
def job():
    return prepare(configured(**SMALL))


def test_the_summary_says_what_the_checkpoints_hold(finished, job):
    directory, _ = finished
    summary = read_json(directory / "summary.json")
    deep = last_state(directory, job).variables
    compact = lcjax.restore(directory / "compact")
    evaluate, test = job.task.classifier.evaluator(64), job.task.data.test()
    assert summary["deep"]["test"] == evaluate(deep, test)
    assert summary["compact"]["test"] == evaluate(compact, test)
    assert summary["compact"]["restored"] == summary["compact"]["test"]
    assert summary["steps"] == 40 and summary["seed"] == 0 and summary["dataset"] == "digits"

    sites = lcjax.find_sites(deep)
    assert [site["path"] for site in summary["sites"]] == list(sites.paths)
    assert [site["slope"] for site in summary["sites"]] == [site.slope for site in sites]
    want, report = lcjax.collapse(deep)
    same_bits(compact, jax.device_get(want))
    assert summary["collapsed"] == list(report.collapsed) != []
    assert summary["deep"]["parameters"] == report.parameters_before
    assert summary["compact"]["parameters"] == report.parameters_after
    last = [record for record in read_metrics(directory) if "train/loss" in record][-1]
    assert [last[SLOPE + site.path] for site in sites] == [site.slope for site in sites]


def test_a_finished_run_is_neither_resumed_nor_replaced(finished, monkeypatch):
    directory, _ = finished
    asked = ["digits-mlp", *flags(**SMALL, dropout=0.1, name="a", runs_dir=directory.parent)]
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(
        SystemExit, match="error: .*a is finished: see its summary.txt. Set --epochs"
    ):
        main(monkeypatch, *asked, "--resume")
    with pytest.raises(SystemExit, match="error: .*a exists. Choose another --name"):
        main(monkeypatch, *asked)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


# What a run looks at.


@pytest.mark.slow
@pytest.mark.promotes
def test_the_test_split_is_looked_at_once_and_at_the_end(job, tmp_path, monkeypatch):
    looks, test = [], job.task.data.test
    data = dataclasses.replace(job.task.data, test=lambda: looks.append(True) or test())
    task = dataclasses.replace(job.task, data=data)
    job = dataclasses.replace(job, task=task, protocol=type(job.protocol)(task))
    state = fit(tmp_path / "a", job)
    assert looks == []
    monkeypatch.setattr(
        outcome, "evaluate_in_new_process", lambda *_: {"accuracy": 0.5, "loss": 1.0}
    )
    conclude(task, job.protocol.finish(tmp_path / "a", [], state.variables), tmp_path / "a")
    assert looks == [True]


def test_batches_come_from_the_training_split_alone(job):
    rows = {bytes(row) for row in np.asarray(job.task.source.arrays[0]).reshape(-1, 64)}
    held_out = {bytes(row) for row in job.task.data.validation.images.reshape(-1, 64)}
    assert len(held_out) > 140 and not rows & held_out


def test_nothing_collapsed_says_what_to_do(job, tmp_path, monkeypatch):
    create_directory(tmp_path / "a", {})
    (tmp_path / "a" / FILE).write_text('{"step": 1, "train/loss": 1.0, "slope/mlp/act_0": 0}\n')
    monkeypatch.setattr(
        outcome, "evaluate_in_new_process", lambda *_: {"accuracy": 0.5, "loss": 1.0}
    )
    text = conclude(
        job.task, job.protocol.finish(tmp_path / "a", [], job.state.variables), tmp_path / "a"
    )
    assert "no slope came within 0.05 of 1, so nothing was collapsed" in text
    assert "raise --strength (0.3 now)" in text
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["collapsed"] == []
    assert summary["compact"]["parameters"] == summary["deep"]["parameters"]


# Resuming.


def with_chance(kind, data_dir, **fields):
    """Returns a configuration with every source of chance, on data in memory or streamed."""
    often = {"checkpoint_every": 8, "log_every": 3, "steps_per_dispatch": 4}
    if kind == "in memory":
        return configured(**SMALL | RANDOM | often | fields, norm="batch")
    streamed = dict(dataset="varied", data_dir=data_dir, image_size=8, batch_size=8)
    strong = {"slope_learning_rate": 0.7, "dtype": "bfloat16", "checkpoint_every": 2}
    return configured(**SMALL | RANDOM | often | streamed | strong | fields)


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("kind", ["in memory", "streamed"])
def test_an_interrupted_run_ends_bit_for_bit_where_the_whole_one_does(
    kind, varied_dir, tmp_path, monkeypatch
):
    job = prepare(with_chance(kind, varied_dir))
    whole = fit(tmp_path / "whole", job)
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves=2)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", job)
    (*_, stopped_at) = checkpoints(tmp_path / "broken")
    assert 0 < stopped_at < int(whole.step)
    with (tmp_path / "broken" / FILE).open("a") as file:  # what a killed process may have left
        file.write(json.dumps({"step": stopped_at + 1, "train/loss": 0.0}) + '\n{"step": 9')
    same_bits(fit(tmp_path / "broken", job), whole)
    lines = [(tmp_path / name / FILE).read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1] != ""
    assert events(tmp_path / "whole") == events(tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.promotes
def test_a_run_without_a_checkpoint_yet_starts_over(job, tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "flush", interrupted)  # comes before the first save
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "a", job)
    assert read_metrics(tmp_path / "a") and not checkpoints(tmp_path / "a")
    fit(tmp_path / "a", job)
    steps = [record["step"] for record in read_metrics(tmp_path / "a")]
    assert steps == [10, 20, 20, 30, 40, 40]


@pytest.mark.slow
@pytest.mark.promotes
def test_bfloat16_trains_with_float32_params(tmp_path):
    job = prepare(configured(**SMALL, dtype="bfloat16"))
    assert job.task.classifier.module.dtype == jnp.bfloat16
    state = fit(tmp_path / "a", job)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert read_metrics(tmp_path / "a")[-1]["validation/accuracy"] > 0.5


# Bad input.


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(tfds_find, "_reachable", lambda: False)
    monkeypatch.setattr(array_sets, "DEBIAN_FASHION_MNIST", tmp_path / "debian")


BAD = [
    (["--batch-size", 1294], "--batch-size is 1294, but there are only 1293 examples to train on"),
    (["--batch-size", 0], "--batch-size is 0; expected at least 1"),
    (["--learning-rate", "nan"], "--learning-rate is nan; expected a positive number"),
    (["--num-classes", 100], "digits: num_classes is 100, but its labels have 10 classes"),
    (["--validation", 0.9999], "digits: validation is 0.9999, 1437 of 1437 training images"),
    (["--dataset", "cifar10"], "'cifar10' was not found in .*cannot be reached.*tfds build cifar1"),
    (["--dataset", "fashion_mnist"], "not found in .* On Debian, `apt install dataset-fashion-mn"),
    (["--dataset", "cifr10"], "TFDS has no set of that name. Close to it: .*cifar10"),
    (["--dataset", "no set"], "'no set' is not the name of a data set; expected 'digits'"),
    (["--last", 4], "last is 4; expected a number of sites from 1 to 3"),
    (["--where", "block_*"], r"'block_\*' matches no site. The sites are: mlp/act_0"),
    (
        ["--hidden"],
        "the model has no activation between two Dense layers, so it has no site. Give it",
    ),
    (["--strength", -1], "--strength is -1.0; expected at least 0"),
    (["--mesh", "foo"], ".*mesh.*foo"),
    (["--name", "a/b"], "--name is 'a/b'; expected the name of a directory"),
    (["--resume"], "--resume needs the --name of a run"),
    (["--name", "a", "--resume"], "a is not a run: it has no config.json"),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[" ".join(map(str, w)) for w, _ in BAD])
def test_bad_flags_say_what_is_wrong_and_write_nothing(tmp_path, monkeypatch, wrong, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ["--runs-dir", tmp_path / "runs", "--data-dir", tmp_path / "data", *wrong]
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, "digits-mlp", *asked)
    assert re.search(f"^error: .*{message}", str(caught.value.code), re.DOTALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "wrong", "message"),
    [
        (
            "digits-mixer",
            ["--patch-size", 3],
            "images: got 8x8 pixels, expected multiples of patch_size=3",
        ),
        (
            "imagenet-vit-b16",
            ["--dataset", "digits", "--size", "B"],
            "ViT: got preset 'B', expected",
        ),
    ],
)
def test_models_that_do_not_fit_are_an_error(tmp_path, monkeypatch, preset, wrong, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        main(monkeypatch, preset, "--runs-dir", tmp_path / "runs", "--batch-size", 9, *wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [["digits-mxer"], []])
def test_an_unknown_preset_or_none_lists_the_known(tmp_path, monkeypatch, capsys, asked):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, *asked)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in PRESETS)
    assert list(tmp_path.iterdir()) == []


def test_resume_with_other_flags_is_an_error_that_lists_them(tmp_path, monkeypatch):
    asked = {**SMALL, "name": "a", "runs_dir": tmp_path}
    create_directory(tmp_path / "a", as_json(configured(**asked)))
    wrong = flags(**asked | {"seed": 1, "dropout": 0.5})
    with pytest.raises(SystemExit, match="dropout was 0.0, is 0.5; seed was 0, is 1. Resume it wi"):
        main(monkeypatch, "digits-mlp", *wrong, "--resume")
    here = ["--name", "a", "--runs-dir", tmp_path, "--resume"]
    with pytest.raises(SystemExit, match="a was started with 'digits-mlp', got 'digits-mixer'. Re"):
        main(monkeypatch, "digits-mixer", *here)
    with pytest.raises(SystemExit, match=r"configuration: learning_rate was .*, is 0.5. Resume it"):
        main(monkeypatch, "digits-mlp", "--learning-rate", 0.5, *here)
    (tmp_path / "a" / "config.json").write_text("{bad")
    with pytest.raises(SystemExit, match="error: .*config.json is not valid JSON"):
        main(monkeypatch, "digits-mlp", *here)


@pytest.mark.slow
@pytest.mark.promotes
def test_a_run_is_resumed_without_its_flags_and_a_finished_one_made_longer(tmp_path, monkeypatch):
    evaluate_here(monkeypatch)
    asked = [*flags(**SMALL, runs_dir=tmp_path, name="a"), "--log-every", 7]
    main(monkeypatch, "digits-mlp", *asked)
    (tmp_path / "a" / "summary.json").unlink()  # as of a run that was stopped while it ended
    here = ["--name", "a", "--runs-dir", tmp_path, "--resume"]
    main(monkeypatch, "digits-mlp", *here)
    assert read_json(tmp_path / "a" / "summary.json")["steps"] == 40
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    epochs = SMALL["epochs"]
    for more in ([], ["--epochs", epochs]):
        with pytest.raises(SystemExit, match=f"is finished: .*Set --epochs to more than {epochs}"):
            main(monkeypatch, "digits-mlp", *here, *more)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    main(monkeypatch, "digits-mlp", *here, "--epochs", 2 * epochs)
    assert read_json(tmp_path / "a" / "summary.json")["steps"] == 80
    config = read_json(tmp_path / "a" / "config.json")
    assert config["optimizer"]["epochs"] == 2 * epochs and config["run"]["log_every"] == 7


@pytest.mark.promotes
def test_a_run_that_diverges_stops_with_what_to_do_and_has_no_outcome(tmp_path, monkeypatch):
    asked = SMALL | {"learning_rate": 1e30, "warmup": 0.0, "log_every": 1}
    with pytest.raises(SystemExit, match=r"error: step \d+: the loss is (nan|inf). Lower --lear"):
        main(monkeypatch, "digits-mlp", *flags(**asked, runs_dir=tmp_path))
    left = {path.name for path in (tmp_path / "digits-mlp").iterdir()}
    assert not left & {"compact", "deep", "summary.json", "summary.txt", "picture.png"}


# In processes of their own: killed, interrupted, and the figures of README.


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(("kind", "saves"), [("in memory", 1), ("streamed", 3)])
def test_a_killed_process_is_resumed_bit_for_bit(kind, saves, varied_dir, tmp_path):
    config = with_chance(kind, varied_dir, epochs=8, name="a", runs_dir=tmp_path)
    broken = tmp_path / "a"
    kill_and_resume(*command_line(config), directory=broken, saves=saves)
    job = prepare(config)
    whole = fit(tmp_path / "whole", job)
    same_bits(last_state(broken, job), whole)
    assert (broken / FILE).read_text() == (tmp_path / "whole" / FILE).read_text()
    assert read_json(broken / "summary.json")["steps"] == int(whole.step)


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("most", [1_000, 10_000])  # bytes a file: of the records, of a checkpoint
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(most, varied_dir, tmp_path):
    config = with_chance("in memory", varied_dir, epochs=30, name="a", runs_dir=tmp_path)
    broken = tmp_path / "a"
    # Programs that JAX keeps would be cut off as well, and are shared with other tests.
    stopped = start(*command_line(config), JAX_ENABLE_COMPILATION_CACHE="false")
    wait_for(lambda: checkpoints(broken), stopped)
    resource.prlimit(stopped.pid, resource.RLIMIT_FSIZE, (most, most))
    _, complained = stopped.communicate()
    assert stopped.returncode == 1 and "/train/" not in complained  # orbax's threads may complain
    (told,) = [line for line in complained.splitlines() if line.startswith("error: ")]
    assert "cannot be written: File too large. The last complete checkpoint is intact" in told
    assert told.endswith("--name a --resume to the same flags.")
    assert checkpoints(broken) and not (broken / "summary.json").exists()
    resumed = start(*command_line(config), "--resume")
    _, complained = resumed.communicate()
    assert resumed.returncode == 0, complained
    job = prepare(config)
    same_bits(last_state(broken, job), fit(tmp_path / "whole", job))
    assert (broken / FILE).read_text() == (tmp_path / "whole" / FILE).read_text()


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    ("kind", "asked"), [("in memory", signal.SIGINT), ("streamed", signal.SIGTERM)]
)
def test_ctrl_c_says_how_to_resume_and_that_works(kind, asked, varied_dir, tmp_path):
    config = with_chance(kind, varied_dir, epochs=8, runs_dir=tmp_path)
    stopped = start(*command_line(config))
    directory = tmp_path / "digits-mlp"
    wait_for(lambda: checkpoints(directory), stopped)
    stopped.send_signal(asked)
    _, complained = stopped.communicate()
    assert stopped.returncode == 128 + asked
    assert "stopping after this step; interrupt again to stop at once" in complained
    hint = "stopped; add --name digits-mlp --resume to the same command to continue"
    assert complained.rstrip().endswith(hint) and "Traceback" not in complained
    resumed = start(*command_line(config), "--name", "digits-mlp", "--resume")
    _, complained = resumed.communicate()
    assert resumed.returncode == 0, complained
    job = prepare(config)
    same_bits(last_state(directory, job), fit(tmp_path / "whole", job))


@pytest.mark.slow
@pytest.mark.promotes
def test_an_ending_that_was_interrupted_is_resumed(tmp_path, monkeypatch, capsys):
    asked = ["digits-mlp", *flags(**SMALL, runs_dir=tmp_path, name="a")]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outcome, "evaluate_in_new_process", interrupted)
        with pytest.raises(SystemExit, match="130"):
            main(patch, *asked)
    assert "stopped; add --name a --resume" in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert "compact" in left and "summary.json" not in left
    main(monkeypatch, *asked, "--resume")
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["steps"] == 40
    assert summary["compact"]["restored"] == summary["compact"]["test"]


@pytest.mark.slow
@pytest.mark.promotes
def test_steps_a_dispatch_change_nothing(tmp_path):
    runs = {}
    for steps in (1, 7, 20):
        job = prepare(configured(**SMALL | RANDOM, steps_per_dispatch=steps))
        runs[steps] = fit(tmp_path / str(steps), job), read_metrics(tmp_path / str(steps))
    want, records = runs.pop(1)
    for state, others in runs.values():
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(want.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        assert [list(record) for record in others] == [list(record) for record in records]
        for a, b in zip(others, records, strict=True):
            np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-2, atol=1e-4)


def summary_of(runs, preset, **fields):
    process = start(preset, *flags(**fields, runs_dir=runs))
    _, complained = process.communicate()
    assert process.returncode == 0, complained
    (directory,) = (path for path in Path(runs).iterdir())
    return read_json(directory / "summary.json")


@pytest.mark.slow
@pytest.mark.promotes
def test_the_demonstration_halves_the_mlps_and_keeps_its_accuracy(tmp_path):
    summary = summary_of(tmp_path, "digits-mixer")
    deep, compact = summary["deep"], summary["compact"]
    assert deep["test"]["accuracy"] >= 0.97
    assert compact["mlp_parameters"] <= deep["mlp_parameters"] / 2
    assert compact["test"]["accuracy"] >= deep["test"]["accuracy"] - 0.005
    assert compact["restored"]["accuracy"] == compact["test"]["accuracy"]


@pytest.mark.slow
@pytest.mark.promotes
def test_fashion_mlp_chooses_two_sites_by_itself(tmp_path):
    if not REAL or not tfds_find.locate("fashion_mnist", Path(REAL)):
        pytest.skip("fashion_mnist is not prepared in TFDS_DATA_DIR")
    accuracies = []
    for seed in range(3):
        summary = summary_of(tmp_path / str(seed), "fashion-mlp", seed=seed)
        collapsed = [s for s in summary["sites"] if s["path"] in summary["collapsed"]]
        assert [site["slope"] for site in collapsed] == [1.0, 1.0]
        assert summary["compact"]["parameters"] == 407_050
        gap = summary["deep"]["test"]["accuracy"] - summary["compact"]["test"]["accuracy"]
        assert abs(gap) <= 0.0002
        accuracies.append(summary["compact"]["restored"]["accuracy"])
    assert np.mean(accuracies) >= 0.892
