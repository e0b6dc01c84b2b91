"""Fits and fuses on a device, in its own default precision, against float64 on the host.

TF32 has 11 bits and bfloat16 8: products in either miss the bounds three times or more.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from lcjax.algebra.moments import measure
from tests.helpers.nnx_modules import HIDDEN, MLP, WIDTH
from tests.helpers.trees import random_chain, with_slopes

BOUND = 2e-5  # relative to the largest value
RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(0.3, size=(256, 24)).astype(np.float32) for _ in range(2)]
DATA = lcjax.CalibrationData(BATCHES, holdout=0.0, progress=False)
X = np.concatenate(BATCHES)


def exact(fn):
    """Returns a function whose products have full precision: the errors left are the fit's."""

    def run(*args):
        with jax.default_matmul_precision("highest"):
            return fn(*args)

    return run


def near(got, want, bound=BOUND):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert np.abs(got - want).max() <= bound * np.abs(want).max()


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def hidden(params, x=X):
    """The hidden units of a chain, in float64."""
    first = wide(params["dense_0"])
    return np.maximum(x.astype(np.float64) @ first["kernel"] + first["bias"], 0)


def output(params, x=X):
    """The output of a chain of two layers, in float64."""
    last = wide(params["dense_1"])
    return hidden(params, x) @ last["kernel"] + last["bias"]


def affine_fit(inputs, targets):
    """The least-squares kernel and bias, in float64."""
    design = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    return solution[:-1], solution[-1]


@pytest.fixture(scope="module")
def pair():
    model, variables = random_chain((48, 12), 24)
    return exact(model.apply), jax.tree.map(jnp.asarray, with_slopes(variables, 0.0))


def test_arrays_are_on_the_accelerator(accelerator, pair):
    platforms = {"cuda": "gpu", "rocm": "gpu"}
    (device,) = pair[1]["params"]["dense_0"]["kernel"].devices()
    assert device.platform == platforms.get(accelerator, accelerator)


def test_moments_are_those_of_float64():
    found = jax.device_get(jax.jit(measure)(X, X[:, :5] ** 2))
    x, t = X.astype(np.float64), X[:, :5].astype(np.float64) ** 2
    dx, dt = x - x.mean(0), t - t.mean(0)
    near(found.xx, dx.T @ dx)
    near(found.xt, dx.T @ dt)


def test_exact_fuse_is_the_product_of_float64(pair):
    linear = lcjax.map_slopes(jnp.ones_like, pair[1])
    compact, _ = lcjax.collapse(linear)
    (fused,) = compact["params"].values()
    first, last = (wide(pair[1]["params"][f"dense_{i}"]) for i in (0, 1))
    near(fused["kernel"], first["kernel"] @ last["kernel"])
    near(fused["bias"], first["bias"] @ last["kernel"] + last["bias"])


def test_least_squares_is_that_of_float64(pair):
    fit = lcjax.LeastSquares(ridge=0.0)
    compact, report = lcjax.collapse_sequential(*pair, DATA, fit=fit)
    (fused,) = compact["params"].values()
    kernel, bias = affine_fit(X.astype(np.float64), output(pair[1]["params"]))
    near(fused["kernel"], kernel)
    near(fused["bias"], bias)


def test_units_that_stay_are_fitted_as_in_float64(pair):
    compact, _ = lcjax.collapse_sequential(*pair, DATA, fit=lcjax.Units(16, ridge=0.0))
    params = compact["params"]
    kernel, bias = affine_fit(hidden(params), output(pair[1]["params"]))
    near(params["dense_1"]["kernel"], kernel, 1e-4)
    near(params["bypass_0"]["bias"], bias, 1e-4)


def test_functions_fuse_what_they_compute_in_full_precision():
    p = {"up": X[:24], "b": X[24:26, :3], "c": X[:3, :24], "down": X[26:50, :7]}
    p = jax.tree.map(jnp.asarray, p)
    f = lcjax.collapsible(lambda p, x: nn.relu(x @ p["up"] + p["b"][0] @ p["c"]) @ p["down"])
    compact, _ = f.trace(p, X).collapse(fit=lcjax.Exact(max_gap=1))
    (fused,) = compact["fused"].values()
    q = wide(p)
    near(fused["kernel"], q["up"] @ q["down"])
    near(fused["bias"], q["b"][0] @ q["c"] @ q["down"])


def test_plan_keeps_its_budget_and_measures_what_it_carries_out(pair):
    apply_fn, variables = pair
    budget, fits = lcjax.Params(0.5), [lcjax.LeastSquares(), lcjax.Units(16)]
    plan = lcjax.plan_fits(
        apply_fn, variables, DATA, budget=budget, candidates=fits, metric=lcjax.RelativeError(DATA)
    )
    compact, report = lcjax.collapse_sequential(apply_fn, variables, DATA, fit=plan.fits)
    assert report.parameters_after == plan.measured.parameters
    assert report.parameters_after <= 0.5 * report.parameters_before
    deep, now = (np.asarray(apply_fn(tree, X), np.float64) for tree in (variables, compact))
    drop = ((deep - now) ** 2).sum() / (deep**2).sum()
    assert plan.measured.drop == pytest.approx(drop, rel=1e-3)


def test_nnx_modules_are_narrowed():
    x = RNG.normal(size=(200, WIDTH)).astype(np.float32)
    model = MLP(nnx.Rngs(0))
    compact, report = lcjax.nnx.collapse_sequential(model, [x], fit=lcjax.Units(HIDDEN // 2))
    assert compact.up.kernel.shape == (WIDTH, HIDDEN // 2)
    assert report.parameters_after < report.parameters_before
    got, want = (np.asarray(each(x), np.float64) for each in (compact, model))
    assert ((got - want) ** 2).sum() < 0.5 * ((want - want.mean(0)) ** 2).sum()
