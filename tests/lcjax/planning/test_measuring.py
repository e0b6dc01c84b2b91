"""Held-out rows, metrics of outputs, and many trees measured in one run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import CalibrationData, CollapseError
from lcjax.calibration.held_out import is_held_out
from lcjax.calibration.masks import Positions
from lcjax.planning.measuring.held_out import held_out_rows
from lcjax.planning.measuring.measure import MetricMeasure, OutputMeasure
from lcjax.planning.measuring.outputs import KLDivergence, RelativeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
DEEP = {"a": jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32), "b": jnp.ones((8, 3))}


def run(tree, x):
    return jnp.tanh(x @ tree["a"]) @ tree["b"]


def trees(count):
    changed = [jnp.asarray(RNG.normal(1, 0.1 * i, size=(8, 3)), jnp.float32) for i in range(count)]
    return [{**DEEP, "b": b} for b in changed]


def test_held_out_rows_are_those_of_calibration_in_batches_of_one_shape():
    batches = [(X[:20], np.eye(4)), (X[20:40], np.eye(4)), (X[40:], np.eye(4))]
    held = held_out_rows(CalibrationData(batches, holdout=0.3))
    want = X[is_held_out(np.arange(50, dtype=np.uint32), 0.3)]
    assert [batch.inputs[0].shape for batch in held] == [(len(want), 4)] and 10 < len(want) < 20
    more = held_out_rows(CalibrationData([X[:10], X[10:20], X[20:]], holdout=0.5))
    lengths = [len(batch.counts) for batch in more]
    assert len(set(lengths)) == 1 and max(lengths) <= 10
    assert sum(lengths) - sum(batch.counts.sum() for batch in more) < len(lengths)
    got = np.concatenate([batch.inputs[0][batch.counts > 0] for batch in held])
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(held[0].inputs[1], np.eye(4))
    (on_device,) = held_out_rows(CalibrationData([jnp.asarray(X)], holdout=0.3))
    np.testing.assert_array_equal(on_device.inputs[0][on_device.counts > 0], want)
    everything = held_out_rows(CalibrationData([X], holdout=0))
    np.testing.assert_array_equal(everything[0].inputs[0], X)


@pytest.mark.parametrize("kind", [KLDivergence, RelativeError])
def test_trees_measured_together_are_as_one_by_one(kind):
    data = CalibrationData([X[:30], X[30:]], holdout=0.4)
    some = trees(5)
    rows = is_held_out(np.arange(50, dtype=np.uint32), 0.4)
    want = []
    for tree in some:
        y, now = np.float64(run(DEEP, X[rows])), np.float64(run(tree, X[rows]))
        if kind is RelativeError:
            want.append(-((y - now) ** 2).sum() / (y**2).sum())
        else:
            p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (y, now))
            want.append(-(p * np.log(p / q)).sum(-1).mean())
    got = OutputMeasure(run, DEEP, kind(), data)(some)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert OutputMeasure(run, DEEP, kind(), data)([DEEP]) == [0.0]


def test_trees_that_are_alike_are_measured_each():
    (tree,) = trees(1)
    measure = OutputMeasure(run, DEEP, RelativeError(), CalibrationData([X]))
    assert measure([tree, dict(tree)]) == measure([tree]) * 2


def test_outputs_of_all_batches_count_for_what_is_kept(monkeypatch):
    monkeypatch.setattr("lcjax.planning.measuring.measure._KEPT", 200)
    metric = RelativeError(CalibrationData([X[:1], X]))
    measure = OutputMeasure(run, DEEP, metric, CalibrationData([X]))
    assert measure._deep_outputs == [None, None]


def test_values_before_the_leaves_that_differ_are_computed_once():
    measure = OutputMeasure(run, DEEP, RelativeError(), CalibrationData([X]))
    seen = []

    def spied(tree, x):
        hidden = jnp.tanh(x @ tree["a"])
        jax.debug.callback(lambda h: seen.append(h.shape), hidden, ordered=False)
        return hidden @ tree["b"]

    measure = OutputMeasure(spied, DEEP, RelativeError(), CalibrationData([X]))
    measure(trees(4))
    jax.effects_barrier()
    assert len(seen) == 2  # of the deep model, and of all four together


@pytest.mark.parametrize(("kept", "runs"), [(2**28, 3), (0, 4)], ids=["kept", "too large"])
def test_deep_outputs_are_computed_once_unless_they_are_large(kept, runs, monkeypatch):
    monkeypatch.setattr("lcjax.planning.measuring.measure._KEPT", kept)
    seen = []

    def spied(tree, x):
        jax.debug.callback(lambda a: seen.append(a), tree["a"][0, 0], ordered=False)
        return run(tree, x)

    data = CalibrationData([X], holdout=0)
    measure = OutputMeasure(spied, DEEP, RelativeError(), data)
    others = [{**each, "a": 2 * each["a"]} for each in trees(2)]
    got = [measure([tree])[0] for tree in others]
    jax.effects_barrier()
    assert len(seen) == runs
    deep = run(DEEP, X)
    want = [-np.square(run(each, X) - deep).sum() / np.square(deep).sum() for each in others]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_trees_that_do_not_fit_together_are_measured_in_parts(monkeypatch):
    some = trees(5)
    data = CalibrationData([X])
    want = OutputMeasure(run, DEEP, KLDivergence(), data)(some)
    monkeypatch.setattr("lcjax.planning.measuring.measure._TOGETHER", 9000)
    np.testing.assert_allclose(
        OutputMeasure(run, DEEP, KLDivergence(), data)(some), want, rtol=1e-6
    )


def test_a_metric_has_batches_of_its_own_and_their_mask():
    tokens = RNG.normal(size=(6, 5, 4)).astype(np.float32)
    mask = lambda x: x[..., 0] > 0
    metric = RelativeError(CalibrationData([tokens], mask=mask))
    (tree,) = trees(1)
    tree = {**tree, "b": tree["b"] * 0.5}
    (got,) = OutputMeasure(run, DEEP, metric, CalibrationData([X]))([tree])
    assert got == pytest.approx(-0.25)
    kept = tokens[tokens[..., 0] > 0]
    noisy = {**DEEP, "b": DEEP["b"].at[0, 0].set(3)}
    (got,) = OutputMeasure(run, DEEP, metric, CalibrationData([X]))([noisy])
    y, now = run(DEEP, kept), run(noisy, kept)
    assert got == pytest.approx(-float(((y - now) ** 2).sum() / (y**2).sum()), rel=1e-4)


def test_positions_follow_the_rows_and_the_mask():
    rows, mask = jnp.array([1.0, 0.0]), jnp.array([[True, False, True], [True, True, True]])
    assert Positions(rows, mask).of((2, 3)).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert Positions(rows, mask).of((2,)).tolist() == [1, 0]
    assert Positions(rows).of((4,)).tolist() == [1, 1, 0, 0]
    with pytest.raises(CollapseError, match=r"leading axes are \(3,\), the batch has 2 rows"):
        Positions(rows).of((3,))


def test_metrics_that_are_not_finite_or_of_no_logits_are_refused():
    with pytest.raises(ValueError, match="metric returned nan; expected a finite number"):
        MetricMeasure(lambda tree: float("nan"))([DEEP])
    data = CalibrationData([X])
    broken = {**DEEP, "b": DEEP["b"] * np.float32(np.nan)}
    with pytest.raises(ValueError, match="metric returned nan; expected a finite number"):
        OutputMeasure(run, DEEP, KLDivergence(), data)([broken])
    with pytest.raises(TypeError, match="KLDivergence compares logits"):
        OutputMeasure(lambda tree, x: (run(tree, x), x), DEEP, KLDivergence(), data)([DEEP])
