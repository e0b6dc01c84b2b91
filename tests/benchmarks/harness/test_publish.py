"""Result files and their tables."""

import json

import pytest

from benchmarks.harness import publish as publishing
from benchmarks.harness.provenance import EarlierRuns, Stopwatch
from benchmarks.harness.publish import Column, Table, origin_of, publish, tabulate


def test_publish_prints_and_writes_markdown(tmp_path, capsys):
    table = Table(("method", "accuracy, %"), [("deep", "90.1"), ("compact", "9.5")], "of two")
    publish("example", {"seeds": [0]}, {"deep": 0.901}, table, results_dir=tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "of two" and printed[-1] == str(tmp_path / "example.json")
    lines = (tmp_path / "example.md").read_text().splitlines()
    assert lines[0] == "# example" and "seeds `[0]`" in lines[2]
    assert lines[2].startswith(origin_of(json.loads((tmp_path / "example.json").read_text())))
    assert lines[4:] == [
        "of two",
        "",
        "| method  | accuracy, % |",
        "|---------|-------------|",
        "| deep    |        90.1 |",
        "| compact |         9.5 |",
    ]


@pytest.mark.parametrize(("cores", "shown"), [((0,), ", 1 core, "), ((0, 1), ", 2 cores, ")])
def test_publish_counts_cores(tmp_path, monkeypatch, cores, shown):
    monkeypatch.setattr(publishing.os, "sched_getaffinity", lambda _: cores)
    publish("example", {}, {}, results_dir=tmp_path)
    assert shown in (tmp_path / "example.md").read_text()


def test_tabulate_reads_nested_keys_and_functions_and_shows_none_as_dash():
    columns = (
        Column("name", "name"),
        Column("time", "time.median", "{:.1f}"),
        Column("double", lambda record: 2 * record["size"], "{:,}"),
    )
    records = [
        {"name": "a", "time": {"median": 0.25}, "size": 1000},
        {"name": "b", "time": {"median": None}, "size": 1},
    ]
    table = tabulate(columns, records, "title")
    assert table == Table(
        ["name", "time", "double"], [["a", "0.2", "2,000"], ["b", "–", "2"]], "title"
    )


def test_times_of_the_results_of_a_process_add_up_to_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "STOPWATCH", Stopwatch(iter([10.0, 15.5, 75.5]).__next__))
    monkeypatch.setattr(publishing, "STARTED_AT", "0123456789abcdef-dirty")
    earlier = EarlierRuns()
    earlier.record(tmp_path / "run.log", 7.0)
    earlier.use(tmp_path / "run.log")
    monkeypatch.setattr(publishing, "EARLIER_RUNS", earlier)
    for name in ("first", "second"):
        publish(name, {}, [], results_dir=tmp_path)
    records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second")]
    assert [record["seconds"] for record in records] == [12.5, 60.0]
    assert {record["commit"] for record in records} == {"0123456789abcdef-dirty"}
    assert "commit 012345678-dirty, 60 s, " in (tmp_path / "second.md").read_text()


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"date": "2026-11-26"}, "2026-11-26"),
        ({"date": "2026-11-26", "commit": None, "seconds": 99.4}, "2026-11-26, 99 s"),
        ({"date": "2026-11-26", "commit": "0123456789abcdef"}, "2026-11-26, commit 012345678"),
        ({"date": "2026-11-26", "recorded_in": "0123456789ab"}, "2026-11-26, added in 012345678"),
        ({"date": "2026-11-26", "seconds": 600}, "2026-11-26, 10 min"),
        ({"date": "2026-11-26", "seconds": 7200}, "2026-11-26, 2.0 h"),
    ],
)
def test_origin_has_what_is_known(record, shown):
    assert origin_of(record) == shown
