"""Comparisons of methods: their points and tables."""

from benchmarks.harness import methods
from benchmarks.harness.publish import tabulate


def made_up(collapsed, **more):
    form = {"test": {"accuracy": 0.9}, "validation": {"accuracy": 0.8}, "parameters": 100}
    costs = {"flops_per_text": 4e6, "latency_ms": {"1": 1.0, "32": 4.0}}
    deep = {**form, **costs}
    compact = {**form, "flops_per_text": 2e6, "latency_ms": {"1": 9.0, "32": 3.0}}
    return {"collapsed": collapsed, "deep": deep, "compact": compact, **more}


def test_point_has_ratios_where_both_forms_exist_and_the_larger_batch_is_timed():
    method = methods.Method("deep", "row", ("train.image", "digits-mlp"))
    found = methods.point(method, [made_up(["a"]), made_up([]), made_up(["a"], removed=10)])
    assert found["flops_ratio"] == [0.5, None, None] and found["time_ratio"] == [0.75, None, None]
    assert found["parameters"] == [100, 100, 90]
    (cells,) = tabulate(methods.COLUMNS, [found]).rows
    assert cells == [
        "deep",
        "90 / 100",
        "50.0",
        "75.0",
        "0 / 1",
        "80.00 ± 0.00",
        "90.00 ± 0.00",
        "3",
    ]
    own = {"deep": {"flops_per_text": 8e6, "latency_ms": {"32": 5.0}}}
    own["compact"] = {"flops_per_text": 2e6, "latency_ms": {"32": 1.0}}
    smaller = methods.costs([made_up(["a"], removed=10, materialized=own)])
    assert smaller["flops_ratio"] == [0.25] and smaller["time_ratio"] == [0.2]
    assert tabulate(methods.COLUMNS, [found | {"time_ratio": [None]}]).rows[0][3] == "–"
