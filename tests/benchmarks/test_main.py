"""`python -m benchmarks`: which benchmarks run, which are finished, and what is reported."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as all_of_them
from benchmarks.__main__ import main, schedule
from benchmarks.catalog import BENCHMARKS, Benchmark
from benchmarks.form_networks import NETWORKS
from benchmarks.quality.language import PARTS

TWO = (
    Benchmark("cost.one", full=("--rounds", "9"), quick=("--rounds", "1")),
    Benchmark("quality.two", trains=True),
)


@pytest.fixture
def ran(monkeypatch):
    """The commands that were run; their return code can be set."""
    lines = SimpleNamespace(commands=[], returncode=0)

    def run(command, env):
        lines.commands.append(command)
        return SimpleNamespace(returncode=lines.returncode)

    monkeypatch.setattr(all_of_them.subprocess, "run", run)
    monkeypatch.setattr(all_of_them, "BENCHMARKS", TWO)
    return lines


def test_main_repeats_only_unfinished_or_on_request(ran, tmp_path, capsys):
    runs, results = tmp_path / "runs", tmp_path / "results"
    main(runs_dir=runs, results_dir=results)
    directories = ["--runs-dir", str(runs), "--results-dir", str(results)]
    assert ran.commands == [
        [sys.executable, "-m", "benchmarks", "one", "--rounds", "9", *directories[2:]],
        [sys.executable, "-m", "benchmarks", "two", *directories],
    ]
    main(runs_dir=runs, results_dir=results)
    assert len(ran.commands) == 2 and capsys.readouterr().out.count("finished before") == 2
    main(runs_dir=runs, results_dir=tmp_path / "elsewhere")
    main(("two",), again=True, runs_dir=runs, results_dir=tmp_path / "elsewhere")
    assert [command[3] for command in ran.commands[2:]] == ["one", "two", "two"]


def test_main_always_repeats_summaries(ran, tmp_path, monkeypatch):
    listed = (Benchmark("cost.one"), Benchmark("quality.last", always=True))
    monkeypatch.setattr(all_of_them, "BENCHMARKS", listed)
    for _ in range(2):
        main(runs_dir=tmp_path)
    assert [command[3] for command in ran.commands] == ["one", "last", "last"]


def test_main_repeats_after_code_changed(ran, tmp_path, monkeypatch):
    main(("one",), runs_dir=tmp_path)
    monkeypatch.setattr(all_of_them, "_code_digest", lambda: "newer")
    main(("one",), runs_dir=tmp_path)
    assert len(ran.commands) == 2


def test_main_quick_writes_elsewhere(ran, tmp_path):
    main(quick=True, runs_dir=tmp_path, results_dir=tmp_path / "results")
    (command,) = ran.commands
    results = str(tmp_path / "quick" / "results")
    assert command[2:] == ["benchmarks", "one", "--rounds", "1", "--results-dir", results]


def test_main_reports_failure_and_tries_again(ran, tmp_path, capsys):
    ran.returncode = 1
    with pytest.raises(SystemExit, match="1"):
        main(runs_dir=tmp_path)
    assert capsys.readouterr().out.count("failed") == 2 and len(ran.commands) == 2
    ran.returncode = 0
    main(runs_dir=tmp_path)
    assert len(ran.commands) == 4


def test_schedule_pairs_concurrent_benchmarks_on_disjoint_cores():
    one, two, three, four = (
        Benchmark(f"cost.{name}", concurrent=name in ("two", "three"))
        for name in ("one", "two", "three", "four")
    )
    cores = [0, 2, 3, 5, 7]
    assert schedule((one, two, three, four), cores, pairs=True) == [
        ([one], [cores]),
        ([two, three], [[0, 2], [3, 5, 7]]),
        ([four], [cores]),
    ]
    alone = schedule((one, two, three), cores, pairs=False)
    assert [shares for _, shares in alone] == [[cores], [cores]]
    assert schedule((two, three), [4], pairs=True) == [([two, three], [[4]])]


def test_main_runs_two_concurrent_benchmarks_at_once_on_disjoint_cores(tmp_path, monkeypatch):
    cores, met = os.sched_getaffinity(0), threading.Barrier(2)
    if len(cores) < 2:
        pytest.skip("needs two cores")
    kept = {}

    def run(command, env):
        name = command[3]
        if name in ("two", "three"):
            met.wait(60)  # neither goes on before both are there
        kept[name] = os.sched_getaffinity(0)
        return SimpleNamespace(returncode=0)

    names = ("one", "two", "three", "four")
    listed = [Benchmark(f"cost.{name}", concurrent=name in ("two", "three")) for name in names]
    monkeypatch.setattr(all_of_them.subprocess, "run", run)
    monkeypatch.setattr(all_of_them, "BENCHMARKS", listed)
    main(runs_dir=tmp_path)
    assert kept["one"] == kept["four"] == cores == os.sched_getaffinity(0)
    assert kept["two"] | kept["three"] == cores and not kept["two"] & kept["three"]
    assert list(kept)[0] == "one" and list(kept)[3] == "four"


def test_main_skips_benchmarks_with_missing_packages(ran, tmp_path, capsys, monkeypatch):
    listed = (Benchmark("cost.one", needs=("no_such_package",)),)
    monkeypatch.setattr(all_of_them, "BENCHMARKS", listed)
    main(runs_dir=tmp_path)
    assert ran.commands == [] and "skipped: needs no_such_package" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: no such benchmark: three; there are one."):
        main(("three",), runs_dir=tmp_path)


def test_main_runs_what_is_slow_on_a_cpu_by_name_or_with_an_accelerator(
    ran, tmp_path, capsys, monkeypatch
):
    slow = Benchmark("quality.slow", concurrent=True, slow_on_cpu=True)
    monkeypatch.setattr(all_of_them, "BENCHMARKS", (*TWO, slow))
    monkeypatch.setattr(all_of_them, "machine", lambda: {"device": "cpu"})
    main(runs_dir=tmp_path)
    assert [command[3] for command in ran.commands] == ["one", "two"]
    assert "skipped: takes hours without an accelerator; --only slow" in capsys.readouterr().out
    main(("slow",), runs_dir=tmp_path)
    assert "skipped" not in capsys.readouterr().out
    monkeypatch.setattr(all_of_them, "machine", lambda: {"device": "NVIDIA H100"})
    main(runs_dir=tmp_path)
    assert [command[3] for command in ran.commands[2:]] == ["slow", "one", "two", "slow"]


def test_benchmark_names_are_unique():
    assert len({each.name for each in BENCHMARKS}) == len(BENCHMARKS)


def test_main_runs_parts_of_a_benchmark_one_by_one(ran, tmp_path, monkeypatch):
    parts = [Benchmark("quality.one", part, full=(part,)) for part in ("left", "right")]
    monkeypatch.setattr(all_of_them, "BENCHMARKS", parts)
    main(("one-right",), runs_dir=tmp_path)
    main(("one",), runs_dir=tmp_path)
    assert [command[3:5] for command in ran.commands] == [["one", "right"], ["one", "left"]]


@pytest.mark.parametrize(("command", "parts"), [("forms", NETWORKS), ("language", PARTS)])
def test_every_part_is_listed(command, parts):
    listed = [each.part for each in BENCHMARKS if each.command == command]
    assert sorted(listed) == sorted(parts)


# Of one process, in which what they all import is imported once.
_ASKED = """
import contextlib, io, json, sys
from benchmarks.__main__ import run_one
for name, arguments in json.load(sys.stdin):
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            run_one(name, [*arguments, "--help"])
    except SystemExit as end:
        assert not end.code and "--results-dir" in shown.getvalue(), (name, end.code)
    else:
        raise AssertionError(name)
"""


@pytest.mark.slow
def test_every_benchmark_accepts_its_arguments(tmp_path):
    asked = [
        (
            each.command,
            each.arguments(quick=each.quick is not None, runs_dir=tmp_path, results_dir=tmp_path),
        )
        for each in BENCHMARKS
        if not each.needs
    ]
    command = [sys.executable, "-c", _ASKED]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    assert len(asked) > 20 and done.returncode == 0, done.stderr
