"""`python -m benchmarks kill_and_resume`: when a killed run is resumed, and when it is complete."""

import json
import subprocess

import pytest

from benchmarks.reliability import kill_and_resume
from train.engine.run_directory import SUMMARY


class _Process:
    """A run that writes its summary, and ends unless it is killed before."""

    def __init__(self, directory, *, completes):
        directory.mkdir(exist_ok=True)
        if (directory / SUMMARY).is_file():
            self.failed = 1  # `train` refuses to resume a finished run
        else:
            self.failed = 0
            if completes:
                (directory / SUMMARY).write_text("{}")
        self.killed = False

    def wait(self, timeout=None):
        if timeout is not None and not self.killed:
            raise subprocess.TimeoutExpired("train", timeout)
        return self.failed

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(
    ("completes", "of_runs"), [((True, True, True), [1, 2]), ((True, False, False, True), [1, 1])]
)
def test_run_killed_after_its_summary_is_not_resumed(monkeypatch, tmp_path, completes, of_runs):
    pending = iter(completes)
    monkeypatch.setattr(
        kill_and_resume, "launch", lambda path: _Process(path, completes=next(pending))
    )
    monkeypatch.setattr(kill_and_resume, "outcome", lambda directory: {})
    kill_and_resume.main(times=2, runs_dir=tmp_path / "runs", results_dir=tmp_path)
    results = json.loads((tmp_path / "kill_and_resume.json").read_text())["results"]
    assert [kill["run"] for kill in results["kills"]] == of_runs
    assert all(run["same"] for run in results["runs"])
