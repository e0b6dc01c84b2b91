"""Sites of a function fitted to data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax import CollapseError, CollapsibleMLP
from tests.helpers.functions import (
    CHAIN,
    GATED,
    NORM,
    PAIR,
    STACKED,
    chain,
    close,
    dropped,
    gated,
    normed,
    pair,
    scanned,
    sloped,
)

DATA = np.random.default_rng(0).normal(0.5, size=(4, 50, 3, 6)).astype(np.float32)
BATCHES, ALL = list(map(jnp.asarray, DATA)), jnp.asarray(DATA.reshape(200, 3, 6))


def regression(x, t):
    """Least squares of t on x with a constant, in float64."""
    x, t = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (x, t))
    design = np.c_[x, np.ones(len(x))]
    solution = np.linalg.lstsq(design, t, rcond=None)[0]
    return solution[:-1], solution[-1]


def swapped(p, x):
    return pair(nn.gelu)(p, x.swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "GLU", "chain", "norm before", "vmap", "swapped tokens"])
def test_least_squares_equals_regression(name):
    fn, model = {
        "relu": (pair(nn.relu), PAIR),
        "GLU": (gated(nn.silu), GATED),
        "chain": (chain, CHAIN),
        "norm before": (normed("before"), PAIR | NORM),
        "vmap": (jax.vmap(jax.vmap(pair(nn.gelu), (None, 0)), (None, 0)), PAIR),
        "swapped tokens": (jax.checkpoint(swapped), PAIR),
    }[name]
    f = lcjax.collapsible(fn)
    params = sloped(f.init(model, ALL), 0.3)
    stats = f.trace(params, BATCHES[0]).calibrate(
        lcjax.CalibrationData(BATCHES, holdout=0.0, progress=False)
    )
    compact, report = f.trace(params, ALL).collapse(
        fit=lcjax.LeastSquares(ridge=0.0), calibration=stats
    )
    ((kernel, bias),) = ([entry["kernel"], entry["bias"]] for entry in compact["fused"].values())
    want_kernel, want_bias = regression(ALL, f(params, ALL))
    np.testing.assert_allclose(kernel, want_kernel, atol=2e-4)
    np.testing.assert_allclose(bias, want_bias, atol=2e-4)
    close(f(compact, ALL), ALL @ kernel + bias)
    (fit,) = report.fits
    assert fit.tokens == ALL.shape[0] * 3 and fit.held_out_tokens == 0
    assert "held out" in str(report) and "tokens" in str(stats)


@pytest.mark.parametrize("order", ["before", "after"])
def test_per_unit_equals_gain_and_offset(order):
    f = lcjax.collapsible(normed(order))
    params = sloped(f.init(PAIR | NORM, ALL), 0.2)
    stats = f.trace(params, BATCHES[0]).calibrate(
        lcjax.CalibrationData(BATCHES, holdout=0.0, progress=False), fit=lcjax.PerUnit()
    )
    compact, _ = f.trace(params, ALL).collapse(calibration=stats)

    def by_hand(x):
        scale = NORM["scale"] / jnp.sqrt(NORM["var"] + 1e-5)
        shift = NORM["shift"] - NORM["mean"] * scale
        z = x @ PAIR["w1"] + PAIR["b1"]
        z = z * scale + shift if order == "before" else z
        a = 0.2 * z + 0.8 * nn.relu(z)
        mean = lambda v: v.mean((0, 1))
        gain = mean((z - mean(z)) * (a - mean(a))) / mean((z - mean(z)) ** 2)
        a = gain * (z - mean(z)) + mean(a)
        a = a * scale + shift if order == "after" else a
        return a @ PAIR["w2"] + PAIR["b2"]

    np.testing.assert_allclose(f(compact, ALL), by_hand(ALL), atol=1e-4)


@pytest.mark.slow
def test_fits_equal_those_of_a_module():
    model = CollapsibleMLP((16, 8, 4), nn.gelu)
    variables = model.init(jax.random.key(0), ALL)
    flat = variables["params"]
    plain = {"params": {name: dict(flat[name]) for name in flat if name.startswith("dense")}}

    def apply(variables, x):
        p = variables["params"]
        for i in range(3):
            x = x @ p[f"dense_{i}"]["kernel"] + p[f"dense_{i}"]["bias"]
            x = nn.gelu(x) if i < 2 else x
        return x

    f = lcjax.collapsible(apply)
    params = f.init(plain, ALL)
    data = lcjax.CalibrationData(BATCHES, progress=False)
    for fit in (lcjax.LeastSquares(), lcjax.PerUnit()):
        theirs = lcjax.calibrate(model.apply, variables, data, fit=fit)
        ours = f.trace(params, BATCHES[0]).calibrate(data, fit=fit)
        compact, report = f.trace(params, ALL).collapse(calibration=ours)
        want, told = lcjax.collapse(variables, calibration=theirs)
        close(f(compact, ALL), model.apply(want, ALL), terms=10_000)
        assert [one.held_out_r2 for one in report.fits] == pytest.approx(
            [one.held_out_r2 for one in told.fits], abs=1e-4
        )


def test_fit_after_earlier_collapse_with_mask_and_rank():
    f = lcjax.collapsible(chain)
    params = f.init(CHAIN, ALL)
    some, _ = f.trace(params, ALL).collapse("w1", lcjax.Exact(max_gap=1))
    first_token = lambda x: jnp.ones(x.shape[:2], bool).at[:, 1:].set(False)
    stats = f.trace(some, BATCHES[0]).calibrate(
        lcjax.CalibrationData(BATCHES, progress=False, mask=first_token), "w2"
    )
    assert stats.sites == ("w2",) and stats.segments[0].d_in == 6
    compact, report = f.trace(some, ALL).collapse(calibration=stats)
    (key,) = compact["fused"]
    assert lcjax.FusedKey.parse(key).sites == ("w1", "w2")
    assert report.fits[0].tokens + report.fits[0].held_out_tokens == 200
    halves, report = f.trace(params, ALL).collapse(["w1", "w2"], lcjax.Exact(max_gap=1, rank=2))
    (entry,) = halves["fused"].values()
    assert [entry[i]["kernel"].shape for i in ("0", "1")] == [(6, 2), (2, 12)]
    assert report.fits[0].rank == 2


def test_calibrate_rejects_wrong_uses():
    f = lcjax.collapsible(scanned)
    params = f.init(STACKED, ALL[:2])
    with pytest.raises(CollapseError, match="w1: "):
        f.trace(params, BATCHES[0]).calibrate(lcjax.CalibrationData(BATCHES, progress=False))
    f = lcjax.collapsible(chain)
    params = f.init(CHAIN, ALL)
    with pytest.raises(ValueError, match="batches is empty"):
        f.trace(params, ALL).calibrate([])
    with pytest.raises(TypeError, match="batches is one"):
        f.trace(params, ALL).calibrate(ALL)
    with pytest.raises(ValueError, match="which takes no data"):
        f.trace(params, BATCHES[0]).calibrate(BATCHES, fit=lcjax.Exact())
    stats = f.trace(params, BATCHES[0]).calibrate(
        lcjax.CalibrationData(BATCHES[:1], progress=False), "w1"
    )
    with pytest.raises(CollapseError, match="w2: chosen, but calibrated were w1"):
        f.trace(params, ALL).collapse("w2", calibration=stats)
    some, _ = f.trace(params, ALL).collapse("w2", lcjax.Exact(max_gap=1))
    with pytest.raises(CollapseError, match="w1: .*calibrat"):
        f.trace(some, ALL).collapse(calibration=stats)
    with pytest.raises(ValueError, match="ridge is -1"):
        f.trace(params, ALL).collapse(fit=lcjax.LeastSquares(ridge=-1), calibration=stats)
    with pytest.raises(TypeError, match="fit: got 'best'"):
        f.trace(params, ALL).collapse(fit="best")


def test_abstract_collapse_equals_shapes_of_collapse():
    bare = lambda p, x: jax.nn.relu(x @ p["w1"]) @ p["w2"]
    f = lcjax.collapsible(bare)
    params = f.init({name: CHAIN[name] for name in ("w1", "w2")}, ALL)
    compact, _ = f.trace(params, ALL).collapse("w1", lcjax.Exact(max_gap=9))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), compact)
    abstract = f.trace(params, ALL).abstract_collapse("w1")[0]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == shapes
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    shapes = jax.eval_shape(lambda: params)
    with pytest.raises(CollapseError, match="w1: traced or abstract"):
        f.trace(shapes, ALL).abstract_collapse("w1", lcjax.Exact(rank=2))


def test_collapse_rejects_statistics_of_other_weights():
    def two(params, x):
        for a, b in (("a", "b"), ("c", "d")):
            x = x + jax.nn.relu(x @ params[a]) @ params[b]
        return x

    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 3)).astype(np.float32)
    shapes = {"a": (3, 5), "b": (5, 3), "c": (3, 5), "d": (5, 3)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    f = lcjax.collapsible(two)
    params = f.init(weights, x)
    stats = f.trace(params, x).calibrate(lcjax.CalibrationData([x], progress=False))
    one, report = f.trace(params, x).collapse("c", calibration=stats)
    assert report.collapsed == ("c",)
    both, _ = f.trace(one, x).collapse("a", calibration=stats)
    np.testing.assert_allclose(
        f(both, x), f(f.trace(params, x).collapse(calibration=stats)[0], x), rtol=1e-5
    )
    other = f.init(weights | {"b": weights["b"] + 1}, x)
    with pytest.raises(CollapseError, match="a: got statistics of other weights than this tree"):
        f.trace(other, x).collapse(calibration=stats)


@pytest.mark.parametrize("style", ["select", "where"])
def test_calls_with_dropout_are_not_fitted(style):
    call = lcjax.collapsible(dropped(style)).trace(PAIR, jnp.ones((4, 6)), jax.random.key(0))
    with pytest.raises(CollapseError, match="w1: got a call with dropout in the site"):
        call.calibrate([(jnp.ones((4, 6)), jax.random.key(0))])
    assert call.collapse(fit=lcjax.Exact(max_gap=2))[1].collapsed == ("w1",)
