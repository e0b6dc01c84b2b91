"""Functions that read from outside: each pass sees what is there then, and lets it go."""

import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.functions import PAIR, pair

MODEL = lcjax.CollapsibleMLP((4, 2), nn.relu)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), X)
DATA = lcjax.CalibrationData([X], progress=False)


class Outside:
    """A model whose inputs are scaled, and a mask, as an object's attributes have it."""

    scale, counted = 1.0, 40

    def apply(self, variables, x):
        return MODEL.apply(variables, self.scale * x)

    def mask(self, x):
        return jnp.arange(len(x)) < self.counted


def gathered(stats):
    (moments,) = stats.train.values()
    return moments


def test_calibrate_of_module_reads_outside_state_again():
    model = Outside()
    data = lcjax.CalibrationData([X], mask=model.mask, holdout=0.0, progress=False)
    before = gathered(lcjax.calibrate(model.apply, VARIABLES, data))
    model.scale, model.counted = 10.0, 7
    after = gathered(lcjax.calibrate(model.apply, VARIABLES, data))
    assert (before.count, after.count) == (40, 7)
    np.testing.assert_allclose(after.mean_x, 10 * X[:7].mean(0), rtol=1e-5)


def test_calibrate_of_function_reads_outside_state_again():
    state = {"scale": 1.0, "counted": 40}
    f = lcjax.collapsible(lambda p, x: pair(jax.nn.relu)(p, state["scale"] * x))
    x = np.random.default_rng(0).normal(size=(40, len(PAIR["w1"]))).astype(np.float32)
    tree = f.init(PAIR, x)
    mask = lambda x: jnp.arange(len(x)) < state["counted"]
    data = lcjax.CalibrationData([x], mask=mask, holdout=0.0, progress=False)
    call = f.trace(tree, x)
    call.calibrate(data)
    state.update(scale=10.0, counted=7)
    after = gathered(call.calibrate(data))
    assert after.count == 7
    np.testing.assert_allclose(after.mean_x, 10 * x[:7].mean(0), rtol=1e-5)


def collapsed(apply):
    return lcjax.collapse_sequential(apply, VARIABLES, DATA)[1].fits


def planned(apply):
    metric = lambda v: -float(((apply(v, X) - apply(VARIABLES, X)) ** 2).mean())
    return lcjax.plan(apply, VARIABLES, metric, DATA, budget=lcjax.Count(1)).steps


def sensed(apply):
    metric = lambda v: -float(((apply(v, X) - apply(VARIABLES, X)) ** 2).mean())
    return lcjax.sensitivity(apply, VARIABLES, metric, DATA).costs


@pytest.mark.slow
@pytest.mark.parametrize("way", [collapsed, planned, sensed])
def test_fits_and_plans_read_outside_state_again(way):
    model, fresh = Outside(), Outside()
    before = way(model.apply)
    model.scale = fresh.scale = -2.0
    after = way(model.apply)
    assert after == way(fresh.apply)
    assert after != before


@pytest.mark.slow
@pytest.mark.promotes
def test_calibrate_frees_captured_arrays():
    left = []
    for _ in range(2):
        big = jnp.ones(1000)
        left.append(weakref.ref(big))
        apply = lambda v, x, big=big: MODEL.apply(v, x + big[0])
        mask = lambda x, big=big: jnp.arange(len(x)) < 10 * big[0]
        lcjax.calibrate(apply, VARIABLES, lcjax.CalibrationData([X], mask=mask, progress=False))
        lcjax.collapse_sequential(apply, VARIABLES, DATA)
        lcjax.find_sites(VARIABLES, apply_fn=apply, inputs=(X,))
    del big, apply, mask
    gc.collect()
    assert [reference() for reference in left] == [None, None]
