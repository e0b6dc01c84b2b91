import itertools
import subprocess
import sys
import textwrap

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapseError,
    CollapsibleGLU,
    CollapsibleMLP,
    LeastSquares,
    PerUnit,
    calibrate,
    collapse,
)
from lcjax.calibration.held_out import _GOLDEN
from tests.helpers.trees import with_slopes

load_digits = pytest.importorskip("sklearn.datasets", reason="extra train").load_digits

FEATURES = (96, 80, 10)
X = (load_digits().data / 16).astype(np.float32)[:1024]


@pytest.fixture(scope="module")
def digits():
    """A relu MLP on real images, and its variables; slopes are 0."""
    model = CollapsibleMLP(FEATURES, nn.relu)
    return model, jax.jit(model.init)(jax.random.key(0), X[:1])


def hidden(variables, x):
    """Inputs and outputs of the last run, dense_1 to dense_2, in NumPy float64."""
    layers = [variables["params"][f"dense_{i}"] for i in range(3)]
    dense = lambda layer, x: x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
    h = np.maximum(dense(layers[0], np.float64(x)), 0)
    return h, dense(layers[2], np.maximum(dense(layers[1], h), 0))


def ridge_predictions(x, t, at, ridge, weights):
    """Predictions of the ridge regression of stacked float64 data, solved by another route."""
    mean, varies = x.mean(0), x.std(0) > 0
    flows = x.var(0) * (np.float64(weights) ** 2).sum(1)
    share = flows / flows[varies].mean()
    penalty = ridge * x.var(0) * np.maximum(1, 0.3 / np.where(varies, share, 1))
    rows = np.concatenate([x - mean, np.diag(np.sqrt(penalty * len(x)))])
    targets = np.concatenate([t - t.mean(0), np.zeros((x.shape[1], t.shape[1]))])
    kernel = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return (at - mean) @ kernel + t.mean(0)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def held_out(count, holdout=0.1):
    """Which rows are held out, written as the documentation says it."""
    return (np.arange(1, count + 1) * _GOLDEN % 2**32) / 2**32 < holdout


@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
@pytest.mark.parametrize("batch_size", [1024, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_least_squares_equals_float64_ridge_of_all_data(digits, ridge, batch_size, masked):
    model, variables = digits
    counts = np.arange(len(X)) % 3 > 0 if masked else np.ones(len(X), bool)
    x = np.where(counts[:, None], X, np.nan)  # what does not count may be anything
    batches = [(x[i:][:batch_size], counts[i:][:batch_size]) for i in range(0, len(X), batch_size)]
    stats = calibrate(apply_first, variables, CalibrationData(batches, mask=second), "act_1")
    compact, report = collapse(variables, fit=LeastSquares(ridge=ridge), calibration=stats)
    fitted, held = counts & ~held_out(len(X)), counts & held_out(len(X))
    h, t = hidden(variables, X)
    weights = variables["params"]["dense_1"]["kernel"]
    want = ridge_predictions(h[fitted], t[fitted], h, ridge, weights)
    dense = compact["params"]["dense_2"]
    got = h @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
    assert relative(got, want) < 1e-4
    (fit,) = report.fits
    assert (fit.tokens, fit.held_out_tokens) == (fitted.sum(), held.sum())
    for rows, error, r2 in (
        (fitted, fit.error, fit.r2),
        (held, fit.held_out_error, fit.held_out_r2),
    ):
        assert error == pytest.approx(relative(want[rows], t[rows]), rel=1e-2)
        missed = ((want[rows] - t[rows]) ** 2).sum() / ((t[rows] - t[rows].mean(0)) ** 2).sum()
        assert r2 == pytest.approx(1 - missed, rel=1e-3)
    assert fit.held_out_error > fit.error


def apply_first(variables, x, _):
    return CollapsibleMLP(FEATURES, nn.relu).apply(variables, x)


def second(_, counts):
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("fit", [LeastSquares(), PerUnit()])
def test_calibrate_is_independent_of_batch_size(digits, fit):
    model, variables = digits
    whole = calibrate(model.apply, variables, [X], fit=fit)
    parts = calibrate(model.apply, variables, iter([X[:512], X[512:]]), fit=fit)
    assert whole.sites == parts.sites == ("act_0", "act_1")
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-3)
    rows = str(whole).splitlines()
    assert "act_0, act_1" in rows[2] and f"{(~held_out(1024)).sum():,}" in rows[2]


def test_per_unit_replaces_activations_by_regression_lines(digits):
    model, variables = digits
    stats = calibrate(model.apply, variables, CalibrationData([X], holdout=0.0), "act_1", PerUnit())
    compact, report = collapse(variables, calibration=stats)
    h, _ = hidden(variables, X)
    layers = [variables["params"][f"dense_{i}"] for i in (1, 2)]
    kernels = [np.float64(layer["kernel"]) for layer in layers]
    z = h @ kernels[0] + np.float64(layers[0]["bias"])
    lines = [np.polyfit(z[:, unit], np.maximum(z[:, unit], 0), 1) for unit in range(80)]
    gain, offset = np.array(lines).T
    want = (z * gain + offset) @ kernels[1] + np.float64(layers[1]["bias"])
    got = jax.jit(model.apply)(compact, X)
    assert relative(np.float64(got), want) < 1e-5
    assert report.fits[0].held_out_error is None and report.fits[0].r2 > 0.5


@pytest.mark.parametrize("fit", [LeastSquares(), PerUnit()])
def test_fits_at_slope_1_equal_the_exact_fuse(digits, fit):
    model, variables = digits
    linear = with_slopes(variables, 1.0)
    exact, _ = collapse(linear)
    fit = fit if fit.observed == "unit" else LeastSquares(ridge=0.0)
    stats = calibrate(model.apply, linear, [X], fit=fit)
    compact, report = collapse(linear, calibration=stats)
    apply = jax.jit(model.apply)
    assert relative(apply(compact, X), apply(exact, X)) < 1e-3
    assert report.fits[0].r2 == pytest.approx(1, abs=1e-4)


def test_calibrate_uses_constant_memory(digits):
    model, variables = digits
    alive = []

    def endless():
        for i in itertools.count():
            alive.append(len(jax.live_arrays()))
            yield X[i % 16 * 64 :][:64]

    stats = calibrate(model.apply, variables, itertools.islice(endless(), 300), "act_1")
    assert stats.train["dense_2"].count + stats.held_out["dense_2"].count == 300 * 64
    assert max(alive[10:]) <= max(alive[:10])


def test_calibrate_compiles_unhashable_functions_once(digits, strict_promotion):
    model, variables = digits
    traces = []

    class Apply:
        __hash__ = None

        def __call__(self, variables, x):
            traces.append(x.shape)
            return model.apply(variables, x)

    calibrate(Apply(), variables, [X[:64], X[64:128], X[128:192]], "act_1")
    assert traces == [(64, 64)]


def test_calibrate_needs_no_promotion_of_types(digits, strict_promotion):
    model, variables = digits
    want = calibrate(model.apply, variables, [X[:64]], "act_1")
    with jax.enable_x64(True):
        got = calibrate(model.apply, variables, [X[:64]], "act_1")
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol=1e-4, atol=1e-4)


SHARDED = """
    import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, lcjax
    from jax.sharding import AxisType, NamedSharding
    x = np.random.default_rng(0).normal(size=(64, 3, 8)).astype(np.float32)
    x = np.maximum(x, 0)
    counts = np.arange(64 * 3).reshape(64, 3) % 5 > 0
    model = lcjax.CollapsibleMLP((16, 4), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    apply = lambda variables, x, counts: model.apply(variables, x)
    mask = lambda x, counts: counts
    data = lcjax.CalibrationData([(x, counts)], mask=mask)
    one = lcjax.calibrate(apply, variables, data)
    want, _ = lcjax.collapse(variables, calibration=one)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
        rows, whole = NamedSharding(mesh, jax.P("data")), NamedSharding(mesh, jax.P())
        held = jax.device_put(variables, whole)
        own = [(x[i:][:16], counts[i:][:16]) for i in range(0, 64, 16)]
        cut = [jax.device_put(batch, rows) for batch in own]
        many = lcjax.calibrate(apply, held, lcjax.CalibrationData(cut, mask=mask))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        weighted = [
            lcjax.calibrate(
                apply, tree, lcjax.CalibrationData(batches, mask=mask, weighting="influence")
            )
            for tree, batches in ((variables, own), (held, cut))
        ]
        for a, b in zip(*map(jax.tree.leaves, weighted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        compact, _ = lcjax.collapse(held, calibration=many)
        kernel = compact["params"]["dense_1"]["kernel"]
        assert kernel.sharding.is_equivalent_to(whole, 2), kernel.sharding
        np.testing.assert_allclose(kernel, want["params"]["dense_1"]["kernel"], atol=1e-4)
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            mlp = lcjax.CollapsibleMLP((16, 8), nn.relu, name="mlp")
            return mlp(mlp(x))
    twice = Twice()
    both = jax.jit(twice.init)(jax.random.key(0), x)
    one = lcjax.calibrate(twice.apply, both, [x])
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Explicit,))
    columns = NamedSharding(mesh, jax.P(None, None, "model"))
    held = jax.device_put(both, NamedSharding(mesh, jax.P()))
    many = lcjax.calibrate(twice.apply, held, [jax.device_put(x, columns)])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    specs = {"kernel": jax.P("a", "b"), "bias": jax.P("b")}
    put = lambda node: {name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
                        for name, leaf in node.items()}
    held = {"params": {name: put(node) if "kernel" in node else node
                       for name, node in variables["params"].items()}}
    one = lcjax.calibrate(apply, held, data)
    compact, _ = lcjax.collapse(held, calibration=one)
    kernel, bias = compact["params"]["dense_1"]["kernel"], compact["params"]["dense_1"]["bias"]
    assert kernel.sharding.spec == jax.P("a", "b") and bias.sharding.spec == jax.P("b")
    odd, _ = lcjax.collapse(held, fit=lcjax.LeastSquares(rank=1), calibration=one)
    assert odd["params"]["dense_0"]["kernel"].sharding.spec == jax.P("a", None)
    print("sharded ok")
"""


@pytest.mark.slow
def test_calibrate_on_a_mesh_keeps_shardings():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert "sharded ok" in done.stdout, done.stderr


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        body = nn.scan(
            lambda mlp, x, _: (mlp(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return body(CollapsibleMLP((8, 64), nn.relu, name="mlp"), x, None)[0]


def test_calibrate_rejects_stacked_layers():
    stacked = jax.eval_shape(Stacked().init, jax.random.key(0), X[:2])
    with pytest.raises(CollapseError, match=r"mlp/dense_0: kernel \(3, 64, 8\) is of layers stack"):
        calibrate(Stacked().apply, stacked, [X])


def test_calibrate_rejects_bad_arguments(digits):
    model, variables = digits
    with pytest.raises(ValueError, match="batches is empty"):
        calibrate(model.apply, variables, [])
    with pytest.raises(TypeError, match="batches is one ndarray; expected an iterable"):
        calibrate(model.apply, variables, X)
    with pytest.raises(ValueError, match=r"holdout is 1; expected a fraction of rows in \[0"):
        CalibrationData([X], holdout=1)
    with pytest.raises(TypeError, match="fit: got 'ridge', expected lcjax.Exact"):
        calibrate(model.apply, variables, [X], fit="ridge")
    with pytest.raises(CollapseError, match="'act_9' matches no site"):
        calibrate(model.apply, variables, [X], "act_9")
    with pytest.raises(CollapseError, match="no token counts, so there is nothing to fit"):
        calibrate(
            model.apply, variables, CalibrationData([X], mask=lambda x: np.zeros(len(x), bool))
        )
    with pytest.raises(CollapseError, match=r"mask has shape \(1024, 64\), the leading axes here"):
        calibrate(model.apply, variables, CalibrationData([X], mask=lambda x: x > 0))
    with pytest.raises(CollapseError, match="its values are not finite on this data"):
        calibrate(model.apply, variables, [np.full_like(X, np.nan)])


def test_collapse_rejects_sites_and_trees_not_calibrated(digits):
    model, variables = digits
    stats = calibrate(model.apply, variables, [X])
    with pytest.raises(CollapseError, match="act_1: chosen, but calibrated were"):
        collapse(variables, "act_1", calibration=stats)
    collapse(variables, "act_*", calibration=stats)
    single = calibrate(model.apply, variables, [X], "act_1")
    compact, _ = collapse(variables, calibration=single)
    with pytest.raises(CollapseError, match="'act_1' matches no site"):
        collapse(compact, calibration=single)
    first = calibrate(model.apply, variables, [X], "act_0")
    with pytest.raises(CollapseError, match="act_0: the Dense layers around them are not"):
        collapse(compact, calibration=first)
    with pytest.raises(CollapseError, match="dense_1: traced or abstract, but fits and ranks need"):
        jax.jit(lambda v: collapse(v, calibration=single)[0])(variables)


@pytest.mark.slow
def test_masks_broadcast_from_the_first_axis():
    glu = CollapsibleGLU(12, 5, nn.silu)
    x = np.random.default_rng(0).normal(size=(64, 3, 6)).astype(np.float32)
    variables = glu.init(jax.random.key(0), x)
    lengths = np.arange(64) % 4
    counts = np.arange(3) < lengths[:, None]
    want = calibrate(glu.apply, variables, CalibrationData([x], mask=lambda x: counts))
    assert want.train["down"].count + want.held_out["down"].count == counts.sum()
    whole = calibrate(glu.apply, variables, CalibrationData([x], mask=lambda x: lengths > 0))
    data = CalibrationData([x], mask=lambda x: lengths[:, None] > 0)
    again = calibrate(glu.apply, variables, data)
    chex.assert_trees_all_equal(whole, again)
    assert whole.train["down"].count + whole.held_out["down"].count == 3 * 48


@pytest.mark.parametrize("fit", [LeastSquares(), PerUnit()])
def test_collapse_rejects_statistics_of_other_weights(digits, fit):
    model, variables = digits
    stats = calibrate(model.apply, variables, [X[:64]], fit=fit)
    host = jax.tree.map(np.asarray, variables)
    collapse(host, calibration=stats)  # the same numbers in NumPy
    other = jax.jit(model.init)(jax.random.key(1), X[:1])
    trained = jax.tree.map(np.copy, host)
    trained["params"]["dense_1"]["kernel"][3, 5] += 1e-3
    for tree in (other, trained, with_slopes(variables, 0.5)):
        with pytest.raises(CollapseError, match="act_0, act_1: got statistics of other weights"):
            collapse(tree, calibration=stats)


def two_chains():
    layers = [CollapsibleMLP((8, 6), nn.relu), CollapsibleMLP((8, 7, 5), nn.relu)]
    return nn.Sequential(layers)


@pytest.mark.slow
def test_collapse_of_some_calibrated_segments():
    model, x = two_chains(), X[:64, :5]
    variables = jax.jit(model.init)(jax.random.key(0), x)
    stats = calibrate(model.apply, variables, [x])
    compact, report = collapse(variables, "layers_0/*", calibration=stats)
    assert report.collapsed == ("layers_0/act_0",)
    alone = calibrate(model.apply, variables, [x], "layers_0/*")
    chex.assert_trees_all_close(compact, collapse(variables, calibration=alone)[0], rtol=1e-5)
    both, report = collapse(compact, "layers_1/*", calibration=stats)
    assert report.collapsed == ("layers_1/act_0", "layers_1/act_1")
    chex.assert_trees_all_equal(both, collapse(variables, calibration=stats)[0])
    with pytest.raises(CollapseError, match="layers_1/act_0: chosen, but calibrated were"):
        collapse(variables, "layers_1/act_0", calibration=stats)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ids", "0/2", "uint8", "float"])
def test_masks_count_nonzero_positions(digits, kind):
    model, variables = digits
    ids = np.arange(len(X)) % 4
    masks = {
        "ids": ids,
        "0/2": 2 * (ids > 0),
        "uint8": np.uint8(254) * (ids > 0),
        "float": np.float32(ids > 0) / 2,
    }
    stats, want = (
        calibrate(
            model.apply, variables, CalibrationData([X], mask=lambda _, mask=mask: mask), "act_1"
        )
        for mask in (masks[kind], ids > 0)
    )
    chex.assert_trees_all_equal(stats.train, want.train)


def test_calibrate_rejects_additive_and_missing_masks(digits):
    model, variables = digits
    added = np.where(np.arange(len(X)) % 4 > 0, 0, -np.inf)
    with pytest.raises(CollapseError, match="mask returned negative numbers or NaN; expected"):
        calibrate(model.apply, variables, CalibrationData([X], mask=lambda _: added))
    with pytest.raises(TypeError, match="mask returned None; expected an array"):
        calibrate(model.apply, variables, CalibrationData([X], mask=lambda _: None))


def test_calibrate_rejects_batches_of_other_things_than_arrays(digits):
    model, variables = digits
    with pytest.raises(TypeError, match=r"batch\[1\] is False, a bool; expected an array.*Bind"):
        calibrate(model.apply, variables, [(X, False)])
    with pytest.raises(TypeError, match=r"batch\[0\] is <object .*, a object; expected an array"):
        calibrate(model.apply, variables, [object()])


def test_calibrate_rejects_held_out_rows_that_are_not_finite(digits):
    model, variables = digits
    broken = X.copy()
    broken[np.flatnonzero(held_out(len(X)))[0]] = np.nan
    with pytest.raises(CollapseError, match="not finite on this data in rows that are held out"):
        calibrate(model.apply, variables, [broken])
