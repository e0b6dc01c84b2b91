"""The table of forms: every network and size that was compared."""

import json

import pytest

from benchmarks.baselines.registry import BASELINES, OURS
from benchmarks.documents.forms import best_of, forms, forms_in_equal_time
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
    assert all("±" in row[column] for row in rows for column in (3, 4, 7))  # deep, plan, baseline
    assert all("±" in cell or cell == DASH for row in rows for cell in row[5:7])
