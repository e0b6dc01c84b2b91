"""The table of forms: every network and size that was compared."""

import json

import pytest

from benchmarks.baselines.registry import BASELINES, OURS
from benchmarks.documents.forms import TITLES, best_of, finished, forms, forms_in_equal_time
from benchmarks.documents.results import DASH
from benchmarks.harness.publish import RESULTS


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [("accuracy", "accuracy", (0.8, 0.9)), ("perplexity", "loss", (0.2, 0.1))],
)
def test_the_best_is_best_on_the_validation_split(metric, name, values):
    points = [
        {"metric": metric, "validation": [{name: value}], "test": [{name: 1 - value}]}
        for value in values
    ]
    assert best_of(points) is points[1]
    assert best_of([]) is None


def test_forms_of_equal_time_stand_beside_low_rank_of_their_network(tmp_path, monkeypatch):
    score = {"metric": "accuracy", "test": [{"accuracy": 0.9}], "parameters": [100], "sites": 2}
    low_rank = score | {"method": BASELINES["whitened"].title, "state": "healed"}
    plan = score | {"method": OURS["plan-time"].title, "state": "healed", "parameters": [120]}
    plan["times"] = [{"low rank": 0.5, "plan": 0.49}]
    skipped = {"method": BASELINES["whitened"].title, "sites": 1, "skipped": "too small"}
    text = json.dumps({"results": [skipped, low_rank, plan, plan | {"state": "untrained"}]})
    (tmp_path / "forms-mlp.json").write_text(text)
    monkeypatch.setattr("benchmarks.documents.forms.RESULTS", tmp_path)
    assert forms_in_equal_time().rows == [
        ["mlp", "healed", "100", "50", "90.00", "120", "49", "90.00"]
    ]


def test_every_compared_network_has_its_rows():
    names = {path.stem.removeprefix("forms-") for path in RESULTS.glob("forms-*.json")}
    rows = forms().rows
    assert {row[0] for row in rows} == names
    assert {row[2] for row in rows} == {"untrained", "healed"}
    for column in (3, 4, 7, 8):  # deep, plan, baseline, difference
        assert all("±" in row[column] for row in rows)
    assert all("±" in cell or cell == DASH for row in rows for cell in row[5:7])


@pytest.mark.parametrize(
    ("metric", "plan", "best", "ahead"),
    [
        ("accuracy", (0.8, 0.9), (0.7, 0.9), "5.00 ± 7.07"),
        ("perplexity", (5.0, 6.0), (5.2, 6.2), "0.200 ± 0.000"),
    ],
)
def test_a_plan_is_ahead_by_the_differences_of_the_same_seed(
    metric, plan, best, ahead, tmp_path, monkeypatch
):
    def point(method, values):
        test = [{metric: value} for value in values]
        validation = [{"accuracy": 0.5, "loss": 1.0}] * 2
        found = {"metric": metric, "validation": validation, "test": test}
        return found | {"method": method, "sites": 1, "state": "healed", "parameters": [9]}

    points = [
        point("deep", plan),
        point(OURS["plan"].title, plan),
        point(BASELINES["wanda"].title, best),
    ]
    (tmp_path / "forms-mlp.json").write_text(json.dumps({"results": points}))
    monkeypatch.setattr("benchmarks.documents.forms.RESULTS", tmp_path)
    untrained, healed = forms().rows
    assert healed[8] == ahead and untrained[8] == DASH


def test_finished_networks_have_their_smallest_size():
    found = {
        row[0]: row for row in forms().rows if row[2] == "healed"
    }  # the last one, the smallest
    rows = finished().rows
    assert len(rows) == len(TITLES)
    for name, row in zip(TITLES, rows, strict=True):
        plan, baseline = found[name][4].split(" (")[0], found[name][7].split(" (")[0]
        ahead, deviation = map(float, found[name][8].split(" ± "))
        shown = f"**{plan}**" if ahead > deviation else plan
        assert row[1].endswith(f"→ {found[name][1]}") and row[5] == f"{shown} ({baseline})"
        assert "±" in row[2] and row[4].count("±") == 2
