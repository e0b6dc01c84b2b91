import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapsibleMLP,
    LeastSquares,
    PerUnit,
    Skip,
    Units,
    calibrate,
    collapse,
    collapse_sequential,
)

load_digits = pytest.importorskip("sklearn.datasets", reason="extra train").load_digits

X = (load_digits().data / 16).astype(np.float32)[:1024]


class Blocks(nn.Module):
    """Three residual blocks whose names run against their order."""

    @nn.compact
    def __call__(self, x):
        for name in ("c", "b", "a"):
            x = x + CollapsibleMLP((96, 64), nn.relu, name=name)(
                nn.LayerNorm(name=f"norm_{name}")(x)
            )
        return nn.Dense(10, name="head")(x)


@pytest.fixture(scope="module")
def blocks():
    variables = jax.jit(Blocks().init)(jax.random.key(0), X[:1])
    scale = lambda leaf: 2 * leaf if leaf.ndim > 1 else leaf
    return jax.tree.map(scale, variables)


@pytest.mark.slow
def test_sequential_fit_corrects_the_residual_stream(blocks):
    data = CalibrationData([X], holdout=0.0)
    compact, _ = collapse_sequential(Blocks().apply, blocks, data, ["c/*", "a/*"])
    assert set(compact["params"]["b"]) == {"dense_0", "act_0", "dense_1"}

    def output(variables, name):
        _, seen = Blocks().apply(variables, X, capture_intermediates=True, mutable="intermediates")
        return np.float64(seen["intermediates"][name]["__call__"][0])

    x = output(compact, "norm_a")
    # What goes on is the sum with the stream, and the compact model's stream is another.
    stream = lambda variables: output(variables, "c") + output(variables, "b")
    t = output(blocks, "a") + stream(blocks) - stream(compact)
    xc, tc = x - x.mean(0), t - t.mean(0)
    flows = (xc**2).sum(0) * (np.float64(blocks["params"]["a"]["dense_0"]["kernel"]) ** 2).sum(1)
    ridge = 1e-3 * (xc**2).sum(0) * np.maximum(1, 0.3 / (flows / flows.mean()))
    kernel = np.linalg.solve(xc.T @ xc + np.diag(ridge), xc.T @ tc)
    np.testing.assert_allclose(output(compact, "a"), xc @ kernel + t.mean(0), atol=1e-3)


def error(model, compact, deep, x):
    apply = jax.jit(model.apply)
    got, want = np.float64(apply(compact, x)), np.float64(apply(deep, x))
    return np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("fit", [PerUnit(), LeastSquares()])
def test_sequential_fit_corrects_earlier_segments(fit):
    model, sites = CollapsibleMLP((64, 64, 64, 64, 10), nn.relu), ["act_0", "act_2"]
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    fitted, other = [X[:384], X[384:768]], X[768:]
    stats = calibrate(model.apply, variables, fitted, sites, fit=fit)
    together, report = collapse(variables, calibration=stats)
    in_turn, turns = collapse_sequential(model.apply, variables, fitted, sites, fit=fit)
    assert error(model, in_turn, variables, other) < error(model, together, variables, other)
    assert set(in_turn["params"]) == {"dense_1", "act_1", "dense_3", "act_3", "dense_4"}
    assert turns.skipped == (Skip("act_1", "not_chosen"), Skip("act_3", "not_chosen"))
    assert turns.new_leaves == report.new_leaves
    assert turns.removed_leaves == report.removed_leaves
    first, second = turns.fits
    assert (first.sites, second.sites) == (("act_0",), ("act_2",))
    assert first == report.fits[0] and second != report.fits[1]


def test_collapse_sequential_rejects_generators_and_no_batch(blocks):
    with pytest.raises(TypeError, match="batches is a generator, which can be iterated only"):
        collapse_sequential(Blocks().apply, blocks, (x for x in [X]))
    with pytest.raises(ValueError, match="batches is empty"):
        collapse_sequential(Blocks().apply, blocks, [])


@pytest.mark.slow
def test_sequential_units_correct_the_residual_stream(blocks):
    data = CalibrationData([X], holdout=0.0, progress=False)
    fits = {"c/act_0": LeastSquares(), "a/act_0": LeastSquares() + Units(40)}
    compact, report = collapse_sequential(Blocks().apply, blocks, data, fit=fits)
    stats = calibrate(Blocks().apply, blocks, data, "c/*")
    before, _ = collapse(blocks, calibration=stats)
    alone = calibrate(Blocks().apply, blocks, data, "a/*", LeastSquares() + Units(40))
    other, _ = collapse(blocks, calibration=alone)
    one_pass = {"params": {**before["params"], "a": other["params"]["a"]}}
    assert compact["params"]["a"]["dense_0"]["kernel"].shape == (64, 40)
    assert error(Blocks(), compact, blocks, X) < error(Blocks(), one_pass, blocks, X)
    assert report.collapsed == ("c/act_0",) and list(report.units) == ["a/act_0"]
