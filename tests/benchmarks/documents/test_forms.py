"""The table of forms: every network and size that was compared."""

import pytest

from benchmarks.documents.forms import best_baseline, forms, forms_in_equal_time
from benchmarks.harness.publish import RESULTS


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [("accuracy", "accuracy", (0.8, 0.9)), ("perplexity", "loss", (0.2, 0.1))],
)
def test_best_baseline_is_best_on_the_validation_split(metric, name, values):
    points = [
        {"metric": metric, "validation": [{name: value}], "test": [{name: 1 - value}]}
        for value in values
    ]
    assert best_baseline(points) is points[1]
    assert best_baseline([]) is None


def test_forms_of_equal_time_stand_beside_low_rank_of_their_network():
    for network, _, _, low_rank_time, _, _, plan_time, _ in forms_in_equal_time().rows:
        assert network in {row[0] for row in forms().rows}
        assert float(plan_time) <= float(low_rank_time)


def test_every_compared_network_has_its_rows():
    names = {path.stem.removeprefix("forms-") for path in RESULTS.glob("forms-*.json")}
    rows = forms().rows
    assert {row[0] for row in rows} == names
    assert {row[2] for row in rows} == {"untrained", "healed"}
    assert all("±" in cell for row in rows for cell in row[3:])
