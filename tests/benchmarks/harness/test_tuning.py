"""The rate of healing: the best of a grid on the validation split."""

import pytest

from benchmarks.harness.tuning import best_rate


@pytest.mark.parametrize(
    ("metric", "values"), [("accuracy", (0.7, 0.9, 0.8)), ("loss", (1.7, 1.5, 1.6))]
)
def test_best_rate_is_that_of_the_validation_split(metric, values):
    rates = ("1e-4", "1e-3", "1e-2")
    healed = {
        rate: {"validation": {metric: value}, "test": {metric: -value}}
        for rate, value in zip(rates, values, strict=True)
    }
    rate, scores = best_rate(healed, metric)
    assert rate == "1e-3" and scores[rate] == max(scores.values())
    assert abs(scores[rate]) == values[1]
