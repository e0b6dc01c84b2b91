"""Derivatives of traced functions with live slopes, in both modes, on one device and several."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax

pytestmark = pytest.mark.usefixtures("strict_promotion")

R = np.random.default_rng(0)
P = {
    name: jnp.asarray(R.standard_normal(shape) / 4, jnp.float32)
    for name, shape in dict(w1=(2, 8), w2=(8, 8), w3=(8, 1), gate=(2, 8)).items()
}
X = jnp.asarray(R.standard_normal(2), jnp.float32)


def potential(p, x):
    return (jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"]) @ p["w3"])[0]


def gated(p, x):
    return ((jax.nn.silu(x @ p["gate"]) * (x @ p["w1"])) @ p["w3"])[0]


def bent_potential(p, x, slopes):
    for name, slope in zip(("w1", "w2"), slopes, strict=True):
        z = x @ p[name]
        x = slope * z + (1 - slope) * jnp.tanh(z)
    return (x @ p["w3"])[0]


def bent_gated(p, x, slopes):
    value = x @ p["w1"]
    return ((slopes[0] * value + (1 - slopes[0]) * jax.nn.silu(x @ p["gate"]) * value) @ p["w3"])[0]


@pytest.mark.slow
@pytest.mark.parametrize("fn, bent", [(potential, bent_potential), (gated, bent_gated)])
def test_second_derivatives_equal_the_formula(fn, bent):
    f = lcjax.collapsible(fn)
    tree = f.init(P, X)
    tree["slopes"] = jax.tree.map(lambda slope: slope + 0.3, tree["slopes"])

    def of_tree(tree):
        return jnp.trace(jax.hessian(lambda x: f(tree, x))(X))

    def of_formula(slopes):
        return jnp.trace(jax.hessian(lambda x: bent(P, x, slopes))(X))

    got, grads = jax.jit(jax.value_and_grad(of_tree))(tree)
    slopes = [jnp.float32(0.3)] * len(tree["slopes"])
    want, wanted = jax.value_and_grad(of_formula)(slopes)
    np.testing.assert_allclose(got, want, atol=1e-6)
    found = [slope["slope"] for slope in grads["slopes"].values()]
    np.testing.assert_allclose(sorted(found), sorted(wanted), atol=1e-6)


@pytest.mark.slow
def test_derivatives_of_partly_collapsed_tree():
    f = lcjax.collapsible(potential)
    tree = f.init(P, X)
    tree["slopes"] = {"w1": {"slope": jnp.float32(0.3)}, "w2": {"slope": jnp.float32(1)}}
    compact, _ = f.trace(tree, X).collapse()
    assert list(compact["slopes"]) == ["w1"]
    slopes = [jnp.float32(0.3), jnp.float32(1)]
    got = jax.jit(lambda t: jax.hessian(lambda x: f(t, x))(X))(compact)
    want = jax.hessian(lambda x: bent_potential(P, x, slopes))(X)
    np.testing.assert_allclose(got, want, atol=1e-6)
    got = jax.jvp(lambda x: f(compact, x), (X,), (X,))[1]
    np.testing.assert_allclose(got, jax.grad(bent_potential, 1)(P, X, slopes) @ X, atol=1e-6)


_SHARDED = """
import jax, jax.numpy as jnp, flax.linen as nn, lcjax
model = lcjax.CollapsibleMLP((16, 4), nn.gelu)
x = jax.random.normal(jax.random.key(2), (16, 4))
params = model.init(jax.random.key(0), x)
params["params"]["act_0"]["slope"] += 0.3
mesh, spec = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)), jax.P("d")
loss = lambda params, x: (model.apply(params, x) ** 2).mean()
want = jax.grad(loss)(params, x)

def mean_inside(params, x):
    return jax.grad(lambda params: jax.lax.pmean(loss(params, x), "d"))(params)

def params_cast(params, x):
    params = jax.lax.pcast(params, "d", to="varying")
    return jax.lax.pmean(jax.grad(loss)(params, x), "d")

def summed_by_jax(params, x):  # the derivative in what does not vary is summed over devices
    return jax.tree.map(lambda g: g / 8, jax.grad(loss)(params, x))

def mean_outside(params, x):
    return jax.lax.pmean(jax.grad(loss)(params, x), "d")

ways = [(mean_inside, True), (params_cast, True), (summed_by_jax, True), (mean_outside, False)]
for local, check in ways:
    run = jax.shard_map(
        local, mesh=mesh, in_specs=(jax.P(), spec), out_specs=jax.P(), check_vma=check
    )
    for a, b in zip(jax.tree.leaves(run(params, x)), jax.tree.leaves(want), strict=True):
        assert jnp.allclose(a, b, atol=1e-5), (local.__name__, a, b)
"""


@pytest.mark.slow
def test_gradients_over_devices_equal_one_device():
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", _SHARDED], check=True, env=os.environ | devices)
