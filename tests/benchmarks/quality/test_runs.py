"""The runs of the quality benchmarks: each starts from known runs, and tables read known rows."""

import json
from functools import partial

import pytest

from benchmarks.form_networks import NETWORKS
from benchmarks.harness.training_runs import named
from benchmarks.quality import (
    cifar10_mixer,
    images,
    sentiment,
    small_networks,
    summary,
    sweeps,
    time_to_accuracy,
    unit_slopes,
)
from benchmarks.quality.language_runs import BASELINE_ROWS, STUDENTS, SURGERY, timed_students
from benchmarks.quality.regulariser import regularised

STEP = {"deep": 3.0, "healing": 1.0, "student": 2.0}
LISTS = (
    cifar10_mixer.methods,
    partial(unit_slopes.methods, 1),
    sentiment.methods,
    sentiment.other_methods,
    sentiment.planned_methods,
    *(partial(small_networks.methods, name) for name in small_networks.NETWORKS),
)


@pytest.mark.parametrize("listed", LISTS)
def test_methods_start_from_methods_before_them(listed):
    known = set()
    for method in listed():
        assert set(method.run.needs) <= known
        assert method.name not in known
        known.add(method.name)


def test_language_runs_start_from_known_runs():
    rows = SURGERY | STUDENTS | timed_students(STEP) | BASELINE_ROWS
    assert all(set(run.needs) <= rows.keys() for run in named(rows))
    assert rows["language-student-alone-time"][-1] == "0.500"  # as long as an epoch of healing
    assert rows["language-student-whole-time"][-1] == "5.500"  # three of the deep one, one healing
    run = regularised(epochs=5, decay=0.1)
    assert run.name == "language-tenth-5-0.1-0-0"
    assert run.arguments[-4:] == ("--strength", "0", "--slope-learning-rate", "0")
    assert "0.03" in regularised(epochs=5, strength=0.03).arguments


def test_image_runs_start_from_known_runs_and_sweeps_contain_their_default():
    runs = [*images.RUNS.values(), *sweeps.runs().values(), *time_to_accuracy.runs()]
    names = {run.name for run in runs}
    assert all(set(run.needs) <= names for run in runs)
    for sweep in sweeps.SWEEPS.values():
        assert sweep.default is None or sweep.default in sweep.settings


def test_only_one_list_of_sentiment_is_run(tmp_path):
    with pytest.raises(SystemExit, match="--rest and --plan are both set; expected one of them."):
        sentiment.main(rest=True, plan=True, runs_dir=tmp_path, results_dir=tmp_path)


def test_no_training_is_run_twice():
    runs = [method.run for listed in LISTS for method in listed()]
    runs += named(SURGERY | STUDENTS | BASELINE_ROWS)
    runs += [*images.RUNS.values(), *sweeps.runs().values(), *time_to_accuracy.runs()]
    for network in NETWORKS.values():
        runs += [network.deep.run, *(network.source(count).run for count in network.counts)]
    names: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        names.setdefault(tuple(run.command_line("{{{}}}".format)), set()).add(run.name)
    assert [each for each in names.values() if len(each) > 1] == []
    assert len(names) == len({run.name for run in runs})


def test_seconds_to_targets_excludes_models_of_other_sizes():
    points = [
        {"method": method, "seconds": seconds, "accuracy": [accuracy], "parameters": [size]}
        for method, seconds, accuracy, size in (
            ("distilled", 9.0, 0.886, 4),
            ("distilled", 5.0, 0.881, 4),
            ("lcjax: slopes from the start", 1.0, 0.899, 9),
        )
    ]
    ours, _, theirs, _ = time_to_accuracy.seconds_to_targets(points, "seconds").rows
    assert list(ours[1:]) == ["–"] * 4 and list(theirs) == ["distilled", "5.0", "5.0", "9.0", "–"]


def test_summary_reads_known_rows_of_both_kinds(tmp_path):
    known = {method.name for listed in LISTS for method in listed()} | images.RUNS.keys()
    known |= (SURGERY | STUDENTS | BASELINE_ROWS).keys()
    for source in summary.SOURCES:
        assert set(source.rows.values()) <= known and source.rows.keys() <= summary.METHODS.keys()
    mlp, *_, decoder = summary.SOURCES
    compact = {"test": {"accuracy": 0.9}, "parameters": 100}
    row = {"fashion-mlp-pruned": {"runs": [{"compact": compact, "removed": 40}]}}
    (tmp_path / f"{mlp.file}.json").write_text(json.dumps({"results": row}))
    point = {"run": "language-removed-2", "test": [{"perplexity": 5.0}], "parameters": [7]}
    (tmp_path / f"{decoder.file}.json").write_text(json.dumps({"results": [point]}))
    assert summary.figures(mlp, tmp_path) == {"pruned": {"scores": [90.0], "sizes": [60]}}
    assert summary.figures(decoder, tmp_path) == {"removed": {"scores": [5.0], "sizes": [7]}}
    summary.main(tmp_path)
    assert "90.00 (60)" in (tmp_path / "summary.md").read_text()
