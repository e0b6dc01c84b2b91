"""Products of fits and fuses have full precision, whatever a device's default is.

By default a GPU multiplies float32 in TF32 and a TPU in bfloat16. StableHLO has the precision of
every product, so these tests need neither: models are marked with HIGH, and no other product that
runs during a collapse may have less than HIGHEST, lowered for a CPU, for CUDA or for a TPU.
"""

import ast
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from lcjax.algebra.moments import measure
from tests.helpers.programs import marked, precisions, recorded
from tests.helpers.trees import random_chain, with_slopes

ROOMS = ("algebra", "calibration", "surgery", "structure", "planning", "folder", "io")
X = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
DATA = lcjax.CalibrationData([X], progress=False)
EXACT = lcjax.Exact(max_gap=9)
FITS = {
    "least squares": lcjax.LeastSquares(),
    "low rank": lcjax.LeastSquares(rank=2),
    "per unit": lcjax.PerUnit(),
    "units": lcjax.Units(4),
    "units and linear": lcjax.LeastSquares() + lcjax.Units(4),
    "exact": EXACT,
}
QUICK = ("least squares", "exact")
PLAN = dict(budget=lcjax.Params(0.8), candidates=[lcjax.LeastSquares(), lcjax.Units(4)])


def random(*shape):
    return jax.device_put(np.float32(np.random.default_rng(len(shape)).normal(size=shape)))


class PairModule(nnx.Module):
    """A pair of an NNX model."""

    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(7, 12, rngs=rngs), nnx.Linear(12, 5, rngs=rngs)

    @marked
    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


class EqxPair(eqx.Module):
    """A pair of an Equinox model."""

    up: jax.Array
    down: jax.Array

    @marked
    def __call__(self, x):
        return jax.nn.gelu(x @ self.up) @ self.down


def params_tree():
    """A linen model's function and variables."""
    model, variables = random_chain((13, 5), 7)
    return marked(model.apply), jax.tree.map(jnp.asarray, with_slopes(variables, 0.2))


def traced():
    """A call of a function."""
    f = lcjax.collapsible(marked(lambda p, x: nn.gelu(x @ p["up"]) @ p["down"]))
    return f.trace({"up": random(7, 12), "down": random(12, 5)}, X)


def collapse_params_tree(fit):
    apply_fn, variables = params_tree()
    if fit is EXACT:
        return lambda: lcjax.collapse(variables, fit=fit)
    return lambda: lcjax.collapse_sequential(apply_fn, variables, DATA, fit=fit)


def collapse_traced(fit):
    call = traced()
    if fit is EXACT:
        return lambda: call.collapse(fit=fit)
    return lambda: call.collapse_sequential(DATA, fit=fit)


def collapse_nnx(fit):
    model = PairModule(nnx.Rngs(0))
    if fit is EXACT:
        return lambda: lcjax.nnx.collapse(model, X, fit=fit)
    return lambda: lcjax.nnx.collapse_sequential(model, DATA, fit=fit)


def collapse_eqx(fit):
    model, data = EqxPair(random(7, 12), random(12, 5)), None if fit is EXACT else DATA
    return lambda: lcjax.eqx.collapse(model, X, data=data, fit=fit)


FRONT_ENDS = {
    "params tree": collapse_params_tree,
    "function": collapse_traced,
    "nnx": collapse_nnx,
    "eqx": collapse_eqx,
}


def found_in(surgery):
    """Returns the precisions of products in the programs of a surgery."""
    with recorded() as programs:
        surgery()
    return precisions(programs)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FITS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_fits_and_fuses_have_full_precision(front_end, name):
    found = found_in(FRONT_ENDS[front_end](FITS[name]))
    assert found["HIGHEST"] and set(found) <= {"HIGHEST", "HIGH"}, found


def linen_plan():
    apply_fn, variables = params_tree()
    return lambda: lcjax.plan_fits(apply_fn, variables, DATA, **PLAN)


def nnx_plan():
    model = PairModule(nnx.Rngs(0))
    return lambda: lcjax.nnx.plan_fits(model, DATA, **PLAN)


def linen_statistics():
    apply_fn, variables = params_tree()
    return lambda: lcjax.calibrate(apply_fn, variables, DATA, fit=lcjax.Units(4))


STATISTICS = {
    "params tree": linen_statistics,
    "function": lambda: lambda: traced().calibrate(DATA, fit=lcjax.Units(4)),
    "nnx": lambda: lambda: lcjax.nnx.calibrate(PairModule(nnx.Rngs(0)), DATA),
}
PLANS = {
    "params tree": linen_plan,
    "function": lambda: lambda: traced().plan_fits(DATA, **PLAN),
    "nnx": nnx_plan,
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_have_full_precision(name):
    found = found_in(STATISTICS[name]())
    assert set(found) == {"HIGHEST", "HIGH"}, found


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_plans_are_measured_in_full_precision(name):
    found = found_in(PLANS[name]())
    assert set(found) == {"HIGHEST", "HIGH"}, found


KERNELS = {"up": random(7, 12), "down": random(12, 5)}
STACKED = {"up": random(2, 7, 12), "down": random(2, 12, 7)}
FACTORS = {"a": random(3), "b": random(3, 12), "c": random(3, 5)}


@jax.custom_jvp
def bias_of_factors(p):
    """A bias that a function with a derivative of its own computes."""
    return jnp.sin(p["a"] @ p["b"])


bias_of_factors.defjvp(lambda p, t: jax.jvp(lambda p: jnp.sin(p["a"] @ p["b"]), p, t))


def pair(p, x):
    return nn.gelu(x @ p["up"]) @ p["down"]


def with_computed_biases(p, x):
    return nn.gelu(x @ p["up"] + bias_of_factors(p)) @ p["down"] + p["a"] @ p["c"]


def by_convolutions(p, x):
    conv = lambda x, w: jax.lax.conv(x, w.T[..., None], (1,), "VALID")
    return conv(nn.gelu(conv(x.T[None], p["up"])), p["down"])


def by_experts(p, x):
    h = nn.gelu(jnp.einsum("td,edh->eth", x, p["up"]))
    return jnp.einsum("eth,ehd->etd", h, p["down"])


def by_layers(p, x):
    return jax.lax.scan(lambda x, p: (x + pair(p, x), None), x, p)[0]


FUNCTIONS = {
    "computed biases": (with_computed_biases, KERNELS | FACTORS),
    "convolutions": (by_convolutions, KERNELS),
    "experts": (by_experts, STACKED),
    "layers of a scan": (by_layers, STACKED),
    "bfloat16": (pair, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), KERNELS)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fuses_of_functions_have_full_precision(name):
    fn, params = FUNCTIONS[name]
    call = lcjax.collapsible(fn).trace(params, jnp.asarray(X, params["up"].dtype))
    found = found_in(lambda: call.collapse(fit=EXACT))
    assert set(found) == {"HIGHEST"}, found


def test_a_checkpoint_is_fused_in_full_precision(tmp_path):
    lcjax.save(tmp_path / "deep", params_tree()[1])
    target = tmp_path / "compact"
    found = found_in(lambda: lcjax.collapse_checkpoint(tmp_path / "deep", target, fit=EXACT))
    assert set(found) == {"HIGHEST"}, found


def test_moments_have_full_precision():
    found = found_in(lambda: jax.jit(measure)(X, X[:, :3]))
    assert set(found) == {"HIGHEST"}, found


def test_every_product_says_its_precision():
    products = {"dot", "matmul", "einsum", "tensordot", "vdot", "inner", "dot_general"}
    missing = []
    for room in ROOMS:
        for file in (Path(lcjax.__file__).parent / room).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text())):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                if call.func.attr in products and ast.unparse(call.func.value) != "np":
                    if "precision" not in {each.arg for each in call.keywords}:
                        missing.append(f"{file.name}:{call.lineno}")
    assert not missing
