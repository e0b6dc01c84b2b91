"""The rate of healing: the best of a grid on the validation split of the first seed."""

import json

import pytest

from benchmarks.harness.tuning import Tuned, run_tuned, score

RATES = ("1e-4", "1e-3", "1e-2")


def finished(directory, metric, validation):
    """Writes the summary of a finished run."""
    directory.mkdir(parents=True)
    summary = {"metric": metric, "compact": {"validation": validation}, "seed": directory.name[-1]}
    (directory / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("metric", "values"), [("accuracy", (0.7, 0.9, 0.8)), ("loss", (1.7, 1.5, 1.6))]
)
def test_best_rate_of_the_first_seed_is_run_with_all(metric, values, tmp_path):
    method = Tuned("row", ("train.image", "digits-mlp"), RATES)
    for rate, value in zip(RATES, values, strict=True):
        finished(tmp_path / f"row-{rate}-0", metric, {metric: value})
    # Other seeds are finished at the best rate only: another one would have to be trained.
    for seed in (1, 2):
        finished(tmp_path / f"row-1e-3-{seed}", metric, {metric: 0.1})
    rate, scores, found = run_tuned(method, [], seeds=(0, 1, 2), runs_dir=tmp_path)
    assert rate == "1e-3" and [each["seed"] for each in found] == ["0", "1", "2"]
    assert scores[rate] == score(found[0]) == max(scores.values())
    assert method.run(rate).command.endswith("digits-mlp --heal-learning-rate 1e-3")
