"""The commit of a checkout, with and without changes, and the seconds of runs."""

import subprocess

from benchmarks.harness.provenance import EarlierRuns, commit


def git(root, *arguments):
    name = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    line = ["git", "-C", str(root), *name, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_dirty_by_code_but_not_by_results(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for path in (results / "one.json", tmp_path / "code.py"):
        path.write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    for path in (results / "one.json", results / "two.json"):
        path.write_text("2")
    assert commit(tmp_path) == head
    (tmp_path / "code.py").write_text("2")
    assert commit(tmp_path) == f"{head}-dirty"
    git(tmp_path, "checkout", "--quiet", "code.py")
    (tmp_path / "new.py").write_text("2")
    assert commit(tmp_path) == f"{head}-dirty"


def test_no_commit_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_seconds_of_runs_of_earlier_processes_are_added_once(tmp_path):
    log, other = tmp_path / "run.log", tmp_path / "other.log"
    interrupted = EarlierRuns()
    interrupted.use(log)
    interrupted.record(log, 20.0)
    assert interrupted.take() == 0.0  # this process's own stopwatch has them
    resumed = EarlierRuns()
    resumed.use(log)
    resumed.record(log, 10.0)
    assert resumed.take() == 20.0 and resumed.take() == 0.0
    resumed.use(log)
    assert resumed.take() == 0.0
    reader = EarlierRuns()
    for each in (log, other, log):
        reader.use(each)
    assert reader.take() == 30.0
