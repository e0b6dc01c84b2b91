"""Training runs of benchmarks: their commands and their order."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from filelock import FileLock

from benchmarks.harness import training_runs
from benchmarks.harness.training_runs import Run, RunDirectory, mean_and_deviation, run_all

RUNS = (
    Run("deep", ("train.language", "shakespeare-small")),
    Run("healed", ("train.language", "shakespeare-small", "--from", RunDirectory("deep"))),
    Run("student", ("train.distill", RunDirectory("healed"))),
    Run("images", ("train.image", "digits-mlp", "--epochs", "1")),
)


def test_run_shows_command_and_needs():
    _, healed, student, images = RUNS
    assert images.command == "python -m train.image digits-mlp --epochs 1"
    assert student.command == "python -m train.distill {healed}"
    assert healed.needs == ("deep",) and images.needs == ()


def test_run_all_starts_with_needed_runs_and_keeps_finished_ones(tmp_path, monkeypatch):
    ran = []

    def run(arguments, **_):
        ran.append(arguments)
        directory = tmp_path / arguments[arguments.index("--name") + 1]
        directory.mkdir()
        (directory / "summary.json").write_text(json.dumps({"row": directory.name}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(training_runs.subprocess, "run", run)
    found = run_all(RUNS, ["student", "images"], seeds=(3,), runs_dir=tmp_path)
    assert found == {"student": [{"row": "student-3"}], "images": [{"row": "images-3"}]}
    assert [arguments[:4] for arguments in ran] == [
        [sys.executable, "-m", "train.language", "shakespeare-small"],
        [sys.executable, "-m", "train.language", "shakespeare-small"],
        [sys.executable, "-m", "train.distill", str(tmp_path / "healed-3")],
        [sys.executable, "-m", "train.image", "digits-mlp"],
    ]
    assert ran[1][4:6] == ["--from", str(tmp_path / "deep-3")]
    assert ran[0][4:] == ["--seed", "3", "--runs-dir", str(tmp_path), "--name", "deep-3"]
    run_all(RUNS, ["student"], seeds=(3,), runs_dir=tmp_path)
    assert len(ran) == 4
    longer = Run("images", (*RUNS[3].arguments[:-1], "2"))
    with pytest.raises(
        SystemExit, match=r"images-3 was made by .*--epochs 1', expected .* 2'. Rem"
    ):
        run_all([longer], ["images"], seeds=(3,), runs_dir=tmp_path)
    with pytest.raises(SystemExit, match="error: no such row: small; there are deep, healed, stu"):
        run_all(RUNS, ["small"], seeds=(3,), runs_dir=tmp_path)


def test_two_benchmarks_that_need_the_same_run_make_it_once(tmp_path, monkeypatch):
    training, waiting = threading.Event(), threading.Event()
    ran = []

    class Lock(FileLock):
        def __enter__(self):
            if training.is_set():
                waiting.set()
            return super().__enter__()

    def run_logged(module, arguments, log):
        ran.append(log)
        training.set()
        assert waiting.wait(60)
        directory = tmp_path / log.stem
        directory.mkdir()
        (directory / "summary.json").write_text(json.dumps({"row": directory.name}))

    monkeypatch.setattr(training_runs, "FileLock", Lock)
    monkeypatch.setattr(training_runs, "run_logged", run_logged)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_all, RUNS, ["deep"], seeds=(0,), runs_dir=tmp_path)
        assert training.wait(60)
        second = pool.submit(run_all, RUNS, ["deep"], seeds=(0,), runs_dir=tmp_path)
        assert first.result(60) == second.result(60) == {"deep": [{"row": "deep-0"}]}
    assert len(ran) == 1


def test_mean_and_deviation_rounds():
    assert mean_and_deviation([1.0, 3.0]) == "2.00 ± 1.41"
    assert mean_and_deviation([1.5], digits=4) == "1.5000"
