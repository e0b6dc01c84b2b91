"""Units of a function's sites that are chosen and fitted on data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from lcjax.structure.front_end import Observed
from tests.helpers.functions import CASES, GATED, NORM, PAIR, close, gated, normed, pair

RNG = np.random.default_rng(0)
BATCHES = [jax.device_put(np.float32(RNG.normal(0.5, size=(40, 3, 6)))) for _ in range(3)]
ALL = jnp.concatenate(BATCHES)
DATA = lcjax.CalibrationData(BATCHES, holdout=0.0, progress=False)


def regression(x, t):
    """Least squares of t on x with a constant, in float64."""
    x, t = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (x, t))
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], t, rcond=None)[0]
    return solution[:-1], solution[-1]


@pytest.mark.slow
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", ["plain", "gated", "norm before"])
def test_last_kernel_equals_a_regression_on_inputs_and_units(name, linear):
    fn, params = {
        "plain": (pair(nn.gelu), PAIR),
        "gated": (gated(nn.silu), GATED),
        "norm before": (normed("before"), PAIR | NORM),
    }[name]
    f = lcjax.collapsible(fn)
    call = f.trace(params, ALL)
    stats = call.calibrate(DATA, fit=lcjax.Units(4, linear=linear, ridge=0.0))
    compact, report = call.collapse(calibration=stats)
    (entry,) = compact["fused"].values()
    x = ALL @ entry["layers"]["0"]["kernel"] + entry["layers"]["0"].get("bias", 0)
    if name == "gated":
        h = nn.silu(ALL @ entry["gates"]["0"]["kernel"]) * x
    elif name == "norm before":
        mean, scale, shift = (entry["vectors"]["0"][i] for i in "012")
        h = nn.relu((x - mean) * scale + shift)
    else:
        h = nn.gelu(x)
    kernel, bias = regression(jnp.concatenate([ALL, h], -1) if linear else h, fn(params, ALL))
    np.testing.assert_allclose(entry["layers"]["1"]["kernel"], kernel[-4:], atol=2e-3)
    np.testing.assert_allclose(entry["bypass"]["0"]["bias"], bias, atol=2e-3)
    if linear:
        np.testing.assert_allclose(entry["bypass"]["0"]["kernel"], kernel[:-4], atol=2e-3)
    error = np.asarray(f(compact, ALL) - fn(params, ALL), np.float64)
    deep = np.asarray(fn(params, ALL), np.float64)
    variance = ((deep - deep.mean((0, 1))) ** 2).sum()
    assert report.fits[0].r2 == pytest.approx(1 - (error**2).sum() / variance, abs=1e-3)
    assert len(report.units["w1"]) == 4 and not report.collapsed


@pytest.mark.parametrize("name", ["plain", pytest.param("heads", marks=pytest.mark.slow)])
def test_hidden_values_are_inputs_and_hidden_units(name):
    case = {"plain": CASES["kernels first"], "heads": CASES["DenseGeneral and einsum"]}[name]
    f = lcjax.collapsible(case.fn)
    call = f.trace(f.init(case.params, *case.inputs), *case.inputs)
    observed: Observed = "hidden"
    for path in case.sites:
        (segment,) = call.segments([path])
        values = call.observe([segment], observed)(call.variables, None, case.inputs)
        ((x, t),) = values[segment.key]
        first, last = segment.layers
        assert x.shape[-1] == segment.d_in + first["kernel"].shape[1]
        h = x[..., segment.d_in :]
        close(h @ last["kernel"] + last.get("bias", 0), t)


class SwiGLU(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.gate, self.up = (nnx.Linear(6, 16, use_bias=False, rngs=rngs) for _ in range(2))
        self.down = nnx.Linear(16, 6, rngs=rngs)

    def __call__(self, x):
        z = self.norm(x)
        return x + self.down(nnx.silu(self.gate(z)) * self.up(z))


@pytest.mark.slow
def test_life_of_an_nnx_module(tmp_path):
    graph, params, rest = nnx.split(SwiGLU(), nnx.Param, ...)
    f = lcjax.collapsible(lambda params, x: nnx.merge(graph, params, rest)(x))
    call = f.trace(params, ALL)
    compact, report = call.collapse_sequential(DATA, fit={"up": lcjax.Units(8)})
    assert report.parameters_after == 3 * 6 * 8 + 6 + 2 * 6
    assert "every MLP has 8 hidden units: a standard model of that width" in str(report)
    assert "without_bypasses" not in str(report)  # which is for params of Flax modules
    assert "a site, of which 8 units stay" in str(f.trace(compact, ALL).explain())
    lcjax.save(tmp_path / "compact", compact)
    restored = lcjax.restore(tmp_path / "compact", like=compact)
    close(f(restored, ALL), f(compact, ALL))
    grads = jax.jit(jax.grad(lambda tree: f(tree, ALL).sum()))(restored)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    again = f.trace(restored, ALL)
    abstract, _ = again.abstract_collapse(["up"])
    exact, _ = again.collapse(["up"], lcjax.Exact(max_gap=np.inf))
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, exact)
    fitted, report = again.collapse_sequential(DATA)
    assert report.collapsed == ("up",) and not f.trace(fitted, ALL).sites


def test_vectors_that_no_params_give_are_not_trained():
    scale = np.linspace(1, 2, 16, dtype=np.float32)
    f = lcjax.collapsible(lambda p, x: nn.relu((x @ p["w1"]) * scale) @ p["w2"])
    params = {name: PAIR[name] for name in ("w1", "w2")}
    call = f.trace(params, ALL)
    compact, _ = call.collapse(calibration=call.calibrate(DATA, fit=lcjax.Units(5)))
    (name,) = compact["fused"]
    grads = jax.grad(lambda tree: f(tree, ALL).sum())(compact)["fused"][name]
    assert not np.any(grads["vectors"]["0"]["0"]) and np.any(grads["layers"]["0"]["kernel"])
