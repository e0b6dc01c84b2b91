"""Baselines that keep hidden units: their sizes, and what their corrections preserve."""

import jax
import numpy as np
import pytest

import lcjax
from benchmarks.baselines import units
from benchmarks.baselines.allocation import adaptive_counts, uniform_counts
from benchmarks.baselines.base import Target
from benchmarks.baselines.pairs import dense_moments, find_pairs, narrow_size
from benchmarks.baselines.trees import at_path
from lcjax.models import MLP
from lcjax.structure.capture import ValueName, capture
from tests.helpers.compressible import NETWORKS, small_task
from train.protocols.fitting import calibration_data
from train.validation import ConfigError

pytestmark = pytest.mark.promotes
METHODS = {
    "variance": units.VARIANCE,
    "wanda": units.WANDA_REFITTED,
    "magnitude": units.MAGNITUDE,
    "magnitude-refit": units.MAGNITUDE_REFITTED,
    "width": units.WIDTH,
}


@pytest.fixture(scope="module")
def one_pair():
    """A task whose network is one pair of Dense layers, and moments of its last one."""
    task = small_task(MLP((16, 4)))
    (pair,) = find_pairs(task.variables["params"])
    apply, data = task.classifier.logits, calibration_data(task)
    return task, pair, dense_moments(apply, task.variables, data, [pair.last])


def hidden_and_output(task, pair):
    """Returns the values of the hidden units and of the output, float64."""
    names = [ValueName("input", pair.last), ValueName("output", pair.last)]
    found = capture(task.classifier.logits, task.variables, task.calibration[0], names)
    return [np.asarray(found[name][0], np.float64) for name in names]


def logits(task, variables):
    return np.asarray(task.classifier.logits(variables, *task.calibration[0]))


def test_variance_preserves_mean_output_and_keeps_units_that_vary(one_pair):
    task, pair, moments = one_pair
    deep = task.variables["params"]
    small = units.VARIANCE.narrow(deep, moments, {pair.site: 5})
    before, after = logits(task, task.variables), logits(task, {"params": small})
    np.testing.assert_allclose(after.mean(0), before.mean(0), rtol=1e-5, atol=1e-5)
    assert np.abs(after - before).max() > 0.1  # the outputs themselves differ
    h, _ = hidden_and_output(task, pair)
    kernel = np.asarray(at_path(deep, pair.last)["kernel"])
    expected = np.sort(np.argsort(-(h.var(0) * (kernel**2).sum(1)))[:5])
    first = at_path(deep, pair.first[0])["kernel"]
    np.testing.assert_array_equal(at_path(small, pair.first[0])["kernel"], first[:, expected])


def test_refit_equals_the_ridge_of_the_stacked_data(one_pair):
    task, pair, moments = one_pair
    deep = task.variables["params"]
    small = units.WANDA_REFITTED.narrow(deep, moments, {pair.site: 5})
    h, t = hidden_and_output(task, pair)
    kernel = np.asarray(at_path(deep, pair.last)["kernel"])
    kept = np.sort(np.argsort(-(np.sqrt((h**2).sum(0)) * np.abs(kernel).sum(1)))[:5])
    centred = h[:, kept] - h[:, kept].mean(0)
    penalty = units.RIDGE * (centred**2).mean()
    stacked = np.concatenate([centred, np.sqrt(len(h) * penalty) * np.eye(5)])
    targets = np.concatenate([t - t.mean(0), np.zeros((5, t.shape[1]))])
    expected = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    np.testing.assert_allclose(at_path(small, pair.last)["kernel"], expected, rtol=2e-4, atol=2e-5)
    offset = t.mean(0) - h[:, kept].mean(0) @ expected
    np.testing.assert_allclose(at_path(small, pair.bypass)["bias"], offset, rtol=2e-4, atol=2e-5)
    cut = units.UnitMethod(units.wanda_score, units.uncorrected)
    unfitted = cut.narrow(deep, moments, {pair.site: 5})
    errors = [
        ((logits(task, {"params": each}) - logits(task, task.variables)) ** 2).sum()
        for each in (small, unfitted)
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("name", ["mlp", "mixer", "swiglu"])
def test_counts_fill_the_budget(name):
    task = NETWORKS[name]()
    params = task.variables["params"]
    pairs, whole = find_pairs(params), lcjax.count_parameters(params)
    budget = whole * 3 // 4
    rng = np.random.default_rng(0)
    scores = {pair.site: rng.normal(size=pair.width(params)) for pair in pairs}
    for counts in (
        uniform_counts(params, pairs, budget),
        adaptive_counts(params, pairs, budget, scores),
    ):
        size = narrow_size(params, pairs, counts)
        more = {site: count + 1 for site, count in counts.items()}
        assert size <= budget < narrow_size(params, pairs, more)
    with pytest.raises(ConfigError, match="too small for one unit for each MLP; expected at least"):
        uniform_counts(params, pairs, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("mlp", method) for method in METHODS),
        *(
            (name, method)
            for name in ("mixer", "swiglu", "bert")
            for method in ("variance", "wanda")
        ),
    ],
)
def test_compressed_networks_run_at_their_size(name, method):
    task = NETWORKS[name]()
    budget = lcjax.count_parameters(task.variables) * 4 // 5
    compressed = METHODS[method].compress(task, Target((), budget))
    pairs = find_pairs(task.variables["params"])
    size = lcjax.count_parameters(compressed.variables)
    assert 0.8 * budget < size <= budget and not compressed.removed
    assert np.isfinite(logits(task, compressed.variables)).all()
    assert all(f"{pair.site}: " in compressed.report for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "swiglu"])
def test_all_units_refitted_is_the_network(name):
    task = NETWORKS[name]()
    pairs = find_pairs(task.variables["params"])
    counts = {pair.site: pair.width(task.variables["params"]) for pair in pairs}
    exact = units.UnitMethod(units.wanda_score, units.mean_to_bias)
    apply, data = task.classifier.logits, calibration_data(task)
    moments = dense_moments(apply, task.variables, data, [pair.last for pair in pairs])
    same = exact.narrow(task.variables["params"], moments, counts)
    np.testing.assert_allclose(
        logits(task, {"params": same}), logits(task, task.variables), rtol=1e-4, atol=1e-5
    )
    assert all(jax.tree.leaves(at_path(same, pair.bypass)) for pair in pairs)
