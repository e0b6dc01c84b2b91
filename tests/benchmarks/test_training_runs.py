"""Benchmark rows: which command each is, and in which order they run."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import (
    front,
    images,
    networks,
    quality,
    sentiment,
    sweeps,
    time_to,
    training_runs,
    ways,
)
from benchmarks.language_rows import PEER_ROWS, STUDENTS, SURGERY, timed_students
from benchmarks.regulariser import regularised
from benchmarks.sweep_picture import draw
from benchmarks.training_runs import command, mean_and_deviation, measured

STEP = {"deep": 3.0, "healing": 1.0, "student": 2.0}
ROWS = {
    "deep": ("train.language", "shakespeare-small"),
    "healed": ("train.language", "shakespeare-small", "--from", "{deep}"),
    "student": ("train.distill", "{healed}"),
    "images": ("digits-mlp", "--epochs", "1"),
}


def test_a_row_names_its_module_or_is_one_of_images():
    assert command(ROWS["images"]) == "python -m train.image digits-mlp --epochs 1"
    assert command(ROWS["student"]) == "python -m train.distill {healed}"


def test_rows_that_others_start_from_run_first_and_finished_ones_stay(tmp_path, monkeypatch):
    ran = []

    def run(arguments, **_):
        ran.append(arguments)
        directory = tmp_path / arguments[arguments.index("--name") + 1]
        directory.mkdir()
        (directory / "summary.json").write_text(json.dumps({"row": directory.name}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(training_runs.subprocess, "run", run)
    found = measured(ROWS, ["student", "images"], seeds=(3,), runs_dir=tmp_path)
    assert found == {"student": [{"row": "student-3"}], "images": [{"row": "images-3"}]}
    assert [arguments[:4] for arguments in ran] == [
        [sys.executable, "-m", "train.language", "shakespeare-small"],
        [sys.executable, "-m", "train.language", "shakespeare-small"],
        [sys.executable, "-m", "train.distill", str(tmp_path / "healed-3")],
        [sys.executable, "-m", "train.image", "digits-mlp"],
    ]
    assert ran[1][4:6] == ["--from", str(tmp_path / "deep-3")]
    assert ran[0][4:] == ["--seed", "3", "--runs-dir", str(tmp_path), "--name", "deep-3"]
    measured(ROWS, ["student"], seeds=(3,), runs_dir=tmp_path)
    assert len(ran) == 4
    with pytest.raises(SystemExit, match="error: no such row: small; there are deep, healed, stu"):
        measured(ROWS, ["small"], seeds=(3,), runs_dir=tmp_path)


def test_rows_of_language_start_from_rows_that_are_there():
    rows = SURGERY | STUDENTS | timed_students(STEP) | PEER_ROWS
    for arguments in rows.values():
        for argument in arguments:
            assert not argument.startswith("{") or argument.strip("{}") in rows
    assert rows["language-student-alone-time"][-1] == "0.500"  # as long as an epoch of healing
    assert rows["language-student-whole-time"][-1] == "5.500"  # three of the deep one, one healing
    name, arguments = regularised(epochs=5, decay=0.1)
    assert name == "language-tenth-5-0.1-0-0"
    assert arguments[-4:] == ("--strength", "0", "--slope-learning-rate", "0")
    assert "0.03" in regularised(epochs=5, strength=0.03)[1]


def test_sweeps_start_from_rows_that_are_there_and_mark_values_that_are_tried(tmp_path):
    rows = {**sweeps.rows(), **time_to.rows()}
    for arguments in rows.values():
        for argument in arguments:
            assert not argument.startswith("{") or argument.strip("{}") in rows
    for sweep in sweeps.SWEEPS.values():
        assert sweep.default is None or sweep.default in sweep.settings
    seeds = {"deep_accuracy": [0.9, 0.8], "accuracy": [0.8, 0.9]}
    sizes = {"deep_parameters": [4, 4], "parameters": [4, 2]}
    points = [{"value": value, **seeds, **sizes} for value in ("1", "2")]
    path = draw(points, tmp_path / "a.png", about="width", default="2")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_time_to_an_accuracy_is_the_least_of_models_of_the_size():
    points = [
        {"method": way, "seconds": seconds, "accuracy": [accuracy], "parameters": [size]}
        for way, seconds, accuracy, size in (
            ("distilled", 9.0, 0.886, 4),
            ("distilled", 5.0, 0.881, 4),
            ("lcjax: slopes from the start", 1.0, 0.899, 9),
        )
    ]
    ours, _, theirs, _ = time_to.reached(points, "seconds").rows
    assert list(ours[1:]) == ["–"] * 4 and list(theirs) == ["distilled", "5.0", "5.0", "9.0", "–"]


def test_the_table_of_quality_asks_for_rows_that_are_there_and_reads_both_kinds(tmp_path):
    listed = [*front.ways(), *sentiment.ways()]
    listed += [way for name in networks.NETWORKS for way in networks.ways(name)]
    known = {way.row for way in listed} | images.ROWS.keys()
    known |= (SURGERY | STUDENTS | PEER_ROWS).keys()
    for network in quality.NETWORKS:
        assert set(network.rows.values()) <= known and network.rows.keys() <= quality.METHODS.keys()
    mlp, *_, decoder = quality.NETWORKS
    compact = {"test": {"accuracy": 0.9}, "parameters": 100}
    told = {"fashion-mlp-pruned": {"runs": [{"compact": compact, "removed": 40}]}}
    (tmp_path / "images.json").write_text(json.dumps({"results": told}))
    point = {"run": "language-removed-2", "test": [{"perplexity": 5.0}], "parameters": [7]}
    (tmp_path / "language-peers.json").write_text(json.dumps({"results": [point]}))
    assert quality.figures(mlp, tmp_path) == {"pruned": {"scores": [90.0], "sizes": [60]}}
    assert quality.figures(decoder, tmp_path) == {"removed": {"scores": [5.0], "sizes": [7]}}
    quality.main(tmp_path)
    assert "90.00 (60)" in (tmp_path / "quality.md").read_text()


def test_means_have_as_many_decimals_as_asked_for():
    assert mean_and_deviation([1.0, 3.0]) == "2.00 ± 1.41"
    assert mean_and_deviation([1.5], digits=4) == "1.5000"


def made_up(collapsed, **more):
    form = {"test": {"accuracy": 0.9}, "validation": {"accuracy": 0.8}, "parameters": 100}
    costs = {"flops_per_text": 4e6, "latency_ms": {"1": 1.0, "32": 4.0}}
    deep = {**form, **costs}
    compact = {**form, "flops_per_text": 2e6, "latency_ms": {"1": 9.0, "32": 3.0}}
    return {"collapsed": collapsed, "deep": deep, "compact": compact, **more}


def test_a_way_tells_flops_and_the_time_of_the_larger_batch_where_both_forms_are_there():
    way = ways.Way("deep", "row", ("train.image", "digits-mlp"))
    found = ways.point(way, [made_up(["a"]), made_up([]), made_up(["a"], removed=10)])
    assert found["flops_ratio"] == [0.5, None, None] and found["time_ratio"] == [0.75, None, None]
    assert found["parameters"] == [100, 100, 90]
    (cells,) = ways.table([found]).rows
    assert cells[:5] == ("deep", "90 / 100", "50.0", "75.0", "0 / 1")
    assert ways.table([found | {"time_ratio": [None]}]).rows[0][3] == "–"


@pytest.mark.parametrize(
    "listed",
    [
        front.ways,
        sentiment.ways,
        sentiment.other_ways,
        *(partial(networks.ways, name) for name in networks.NETWORKS),
    ],
)
def test_ways_start_from_ways_before_them(listed):
    known = set()
    for way in listed():
        for argument in way.arguments:
            assert not argument.startswith("{") or argument.strip("{}") in known
        assert way.row not in known
        known.add(way.row)
