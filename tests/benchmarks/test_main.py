"""`python -m benchmarks`: which parts run, which stay, and what is told of them."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as all_of_them
from benchmarks.__main__ import PARTS, Part, main
from benchmarks.record import Table, publish

TWO = (Part("one", whole=("--rounds", "9"), quick=("--rounds", "1")), Part("two", trains=True))


@pytest.fixture
def ran(monkeypatch):
    """The command lines that were run; what they return can be set."""
    lines = SimpleNamespace(asked=[], returncode=0)

    def run(command, env):
        lines.asked.append(command)
        return SimpleNamespace(returncode=lines.returncode)

    monkeypatch.setattr(all_of_them.subprocess, "run", run)
    monkeypatch.setattr(all_of_them, "PARTS", TWO)
    return lines


def test_what_is_measured_stays_until_asked_for_again(ran, tmp_path, capsys):
    runs, results = tmp_path / "runs", tmp_path / "results"
    main(runs_dir=runs, results_dir=results)
    kept = ["--runs-dir", str(runs), "--results-dir", str(results)]
    assert ran.asked == [
        [sys.executable, "-m", "benchmarks.one", "--rounds", "9", *kept[2:]],
        [sys.executable, "-m", "benchmarks.two", *kept],
    ]
    main(runs_dir=runs, results_dir=results)
    assert len(ran.asked) == 2 and capsys.readouterr().out.count("measured before") == 2
    main(runs_dir=runs, results_dir=tmp_path / "elsewhere")
    main(("two",), again=True, runs_dir=runs, results_dir=tmp_path / "elsewhere")
    assert [command[2] for command in ran.asked[2:]] == [
        "benchmarks.one",
        "benchmarks.two",
        "benchmarks.two",
    ]


def test_what_reads_other_parts_is_made_each_time(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(all_of_them, "PARTS", (Part("one"), Part("last", always=True)))
    for _ in range(2):
        main(runs_dir=tmp_path)
    assert [command[2] for command in ran.asked] == [
        "benchmarks.one",
        *["benchmarks.last"] * 2,
    ]


def test_other_code_is_another_measurement(ran, tmp_path, monkeypatch):
    main(("one",), runs_dir=tmp_path)
    monkeypatch.setattr(all_of_them, "_code", lambda: "newer")
    main(("one",), runs_dir=tmp_path)
    assert len(ran.asked) == 2


def test_quick_leaves_the_results_alone(ran, tmp_path):
    main(quick=True, runs_dir=tmp_path, results_dir=tmp_path / "results")
    (command,) = ran.asked
    assert command[2:] == [
        *("benchmarks.one", "--rounds", "1"),
        *("--results-dir", str(tmp_path / "quick" / "results")),
    ]


def test_a_part_that_fails_is_told_and_tried_again(ran, tmp_path, capsys):
    ran.returncode = 1
    with pytest.raises(SystemExit, match="1"):
        main(runs_dir=tmp_path)
    assert capsys.readouterr().out.count("failed") == 2 and len(ran.asked) == 2
    ran.returncode = 0
    main(runs_dir=tmp_path)
    assert len(ran.asked) == 4


def test_two_that_only_train_run_at_once_each_on_its_own_cores(tmp_path, monkeypatch):
    cores, met = os.sched_getaffinity(0), threading.Barrier(2)
    if len(cores) < 2:
        pytest.skip("one core alone")
    kept = {}

    def run(command, env):
        name = command[2].removeprefix("benchmarks.")
        if name in ("two", "three"):
            met.wait(60)  # neither goes on before both are there
        kept[name] = os.sched_getaffinity(0)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(all_of_them.subprocess, "run", run)
    asked = [Part(n, beside=n in ("two", "three")) for n in ("one", "two", "three", "four")]
    monkeypatch.setattr(all_of_them, "PARTS", asked)
    main(runs_dir=tmp_path)
    assert kept["one"] == kept["four"] == cores == os.sched_getaffinity(0)
    assert kept["two"] | kept["three"] == cores and not kept["two"] & kept["three"]
    assert list(kept)[0] == "one" and list(kept)[3] == "four"


def test_a_part_whose_packages_are_missing_is_left_out(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(all_of_them, "PARTS", (Part("one", needs=("no_such_package",)),))
    main(runs_dir=tmp_path)
    assert ran.asked == [] and "left out: needs no_such_package" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: no such part: three; there are one."):
        main(("three",), runs_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in PARTS if not part.needs])
def test_every_part_has_the_flags_it_is_asked_with(part, tmp_path):
    quick = part.quick is not None
    asked = part.arguments(quick=quick, runs_dir=tmp_path, results_dir=tmp_path)
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *asked, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and "--results-dir" in shown.stdout, shown.stderr


def test_tables_are_printed_and_kept_as_markdown(tmp_path, capsys):
    table = Table(("way", "accuracy, %"), [("deep", "90.1"), ("compact", "9.5")], "of two")
    publish("example", {"seeds": [0]}, {"deep": 0.901}, table, results_dir=tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "of two" and printed[-1] == str(tmp_path / "example.json")
    kept = (tmp_path / "example.md").read_text().splitlines()
    assert kept[0] == "# example" and "seeds `[0]`" in kept[2]
    assert kept[4:] == [
        "of two",
        "",
        "| way     | accuracy, % |",
        "|---------|-------------|",
        "| deep    |        90.1 |",
        "| compact |         9.5 |",
    ]
