"""A slope for each hidden unit: modules, gradients, and lifted transforms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import CollapsibleActivation, CollapsibleGate, CollapsibleGLU, CollapsibleMLP
from lcjax.errors import CollapseError
from lcjax.nn.activations import interpolate

pytestmark = pytest.mark.usefixtures("strict_promotion")

Z = jax.random.normal(jax.random.key(0), (2, 7, 5))
SLOPE = jnp.array([0.0, 1.0, 0.3, -0.5, 1.4])


def plain(fn, z, slope):
    slope = jnp.broadcast_to(slope, z.shape)
    return slope * z + (1 - slope) * fn(z)


def test_each_unit_has_the_slope_of_its_own():
    act = CollapsibleActivation(nn.gelu, slope_per="unit")
    assert act.init(jax.random.key(0), Z)["params"]["slope"].shape == (5,)
    out = act.apply({"params": {"slope": SLOPE}}, Z)
    np.testing.assert_allclose(out, plain(nn.gelu, Z, SLOPE), atol=1e-6)
    np.testing.assert_array_equal(out[..., 0], nn.gelu(Z)[..., 0])
    np.testing.assert_array_equal(out[..., 1], Z[..., 1])


@pytest.mark.parametrize("fn", [nn.relu, nn.gelu])
def test_gradients_are_those_of_the_formula(fn):
    loss = lambda f: lambda z, s: jnp.sum(jnp.sin(f(fn, z, s)))
    got = jax.grad(loss(interpolate), (0, 1))(Z, SLOPE)
    want = jax.grad(loss(plain), (0, 1))(Z, SLOPE)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    tangents = (jnp.ones_like(Z), jnp.ones_like(SLOPE))
    _, forward = jax.jvp(lambda z, s: interpolate(fn, z, s), (Z, SLOPE), tangents)
    np.testing.assert_allclose(
        forward, jax.jvp(lambda z, s: plain(fn, z, s), (Z, SLOPE), tangents)[1], atol=1e-5
    )


def test_slope_gradients_of_bfloat16_are_summed_in_float32_and_store_the_input_alone():
    z = jnp.full((4096, 3), -1.0, jnp.bfloat16)
    loss = lambda s: interpolate(nn.relu, z, s).astype(jnp.float32).sum()
    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(3)), jnp.full(3, -4096.0))
    _, backward = jax.vjp(lambda z, s: interpolate(nn.gelu, z, s), Z, SLOPE)
    sizes = [leaf.size for leaf in jax.tree.leaves(backward)]
    assert sum(size >= Z.size for size in sizes) == 1


@pytest.mark.parametrize("module", [CollapsibleMLP((5, 3), nn.gelu, slope_per="unit")])
def test_params_decide_whether_slopes_are_of_units(module):
    params = module.init(jax.random.key(0), Z)["params"]
    assert params["act_0"]["slope"].shape == (5,)
    plain_one = CollapsibleMLP((5, 3), nn.gelu)
    scalar = params | {"act_0": {"slope": jnp.float32(0.0)}}
    for one in (module, plain_one):
        for tree in (params, scalar):
            np.testing.assert_array_equal(
                one.apply({"params": tree}, Z), module.apply({"params": params}, Z)
            )


def test_gate_has_a_slope_for_each_unit():
    gate = CollapsibleGate(nn.silu, slope_per="unit")
    variables = {"params": {"slope": SLOPE}}
    got, value = gate.apply(variables, Z, Z + 1), Z + 1
    np.testing.assert_allclose(
        got, (1 - SLOPE[None, None]) * nn.silu(Z) * value + SLOPE[None, None] * value, atol=1e-5
    )
    glu = CollapsibleGLU(hidden=6, features=5, slope_per="unit")
    assert glu.init(jax.random.key(0), Z)["params"]["act"]["slope"].shape == (6,)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return CollapsibleMLP((6, 5), nn.gelu, slope_per="unit", dtype=x.dtype, name="mlp")(x), None


@pytest.mark.slow
def test_under_scan_vmap_and_jit_in_bfloat16():
    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    x = Z.astype(jnp.bfloat16)
    variables = stack.init(jax.random.key(0), x, None)
    assert variables["params"]["mlp"]["act_0"]["slope"].shape == (3, 6)
    y, _ = jax.jit(stack.apply)(variables, x, None)
    grads = jax.grad(lambda v: stack.apply(v, x, None)[0].astype(jnp.float32).sum())(variables)
    assert grads["params"]["mlp"]["act_0"]["slope"].dtype == jnp.float32
    mapped = jax.vmap(lambda s: interpolate(nn.gelu, Z, s))(jnp.stack([SLOPE, 2 * SLOPE]))
    np.testing.assert_allclose(mapped[1], interpolate(nn.gelu, Z, 2 * SLOPE), atol=1e-6)
    assert y.shape == x.shape


def test_slopes_of_another_width_and_another_word_are_errors():
    with pytest.raises(CollapseError, match=r"act_0/slope: got slopes of shape \(4,\), expected"):
        model = CollapsibleMLP((5, 3), nn.gelu)
        params = model.init(jax.random.key(0), Z)["params"]
        model.apply({"params": params | {"act_0": {"slope": jnp.zeros(4)}}}, Z)
    with pytest.raises(ValueError, match="slope_per is 'units'; expected 'site' or 'unit'"):
        CollapsibleActivation(nn.relu, slope_per="units").init(jax.random.key(0), Z)
