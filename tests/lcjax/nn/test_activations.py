from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import CollapsibleActivation, CollapsibleGate, CollapsibleMLP
from lcjax.nn.activations import interpolate

pytestmark = pytest.mark.usefixtures("strict_promotion")

Z = jax.random.normal(jax.random.key(0), (7, 5))


def plain(fn, z, slope):
    return slope * z + (1 - slope) * fn(z)


@pytest.mark.parametrize("fn", [nn.relu, nn.gelu, nn.silu, jnp.tanh])
def test_slope_zero_is_the_activation_and_one_the_identity(fn):
    act = CollapsibleActivation(fn)
    variables = act.init(jax.random.key(0), Z)
    assert variables["params"]["slope"].dtype == jnp.float32
    np.testing.assert_array_equal(act.apply(variables, Z), fn(Z))
    np.testing.assert_array_equal(act.apply({"params": {"slope": jnp.ones(())}}, Z), Z)


@pytest.mark.parametrize("fn", [nn.relu, nn.gelu, jnp.tanh])
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, 1.4])
def test_gradients_are_those_of_the_formula(fn, slope):
    slope = jnp.float32(slope)
    loss = lambda f: lambda z, s: jnp.sum(jnp.sin(f(fn, z, s)))
    got = jax.grad(loss(interpolate), (0, 1))(Z, slope)
    want = jax.grad(loss(plain), (0, 1))(Z, slope)
    np.testing.assert_allclose(got[0], want[0], atol=1e-6)
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_input_dtype_is_kept_and_the_slope_gradient_is_float32(dtype):
    z = Z.astype(dtype)
    act = CollapsibleActivation(nn.gelu, slope_init=0.5)
    variables = act.init(jax.random.key(0), z)
    assert act.apply(variables, z).dtype == dtype
    grads = jax.grad(lambda v: act.apply(v, z).astype(jnp.float32).sum())(variables)
    assert grads["params"]["slope"].dtype == jnp.float32


def test_one_minus_slope_is_formed_in_float32_not_in_bfloat16():
    z = jnp.full((4,), -1.0, jnp.bfloat16)
    slope = jnp.float32(1 - 2**-12)  # rounds to 1 in bfloat16, whose 1 - 1 would be 0
    out = interpolate(lambda z: 1024 * z, z, slope)
    np.testing.assert_allclose(np.asarray(out, np.float32), -1.25, atol=0.01)


def test_slope_gradient_of_a_bfloat16_input_is_summed_in_float32():
    z = jnp.full((4096,), -1.0, jnp.bfloat16)
    grad = jax.grad(lambda s: interpolate(nn.relu, z, s).astype(jnp.float32).sum())(jnp.float32(0))
    assert float(grad) == -4096.0  # a bfloat16 sum would stop at -256


def test_slope_gradient_of_a_float16_input_is_formed_in_float32():
    """With loss scaling `g (z − h)` is past the largest float16, its sum in float32 is not."""
    z = jnp.full((8,), -1e3, jnp.float16)
    scaled = lambda module, *inputs: (
        lambda v: 1024 * module.apply(v, *inputs).astype(jnp.float32).sum()
    )
    act, gate = CollapsibleActivation(nn.relu), CollapsibleGate(nn.relu)
    for module, inputs, want in ((act, (z,), -1e3), (gate, (z, z / 100), -10)):  # relu(z) is 0
        variables = module.init(jax.random.key(0), *inputs)
        slope = jax.grad(scaled(module, *inputs))(variables)["params"]["slope"]
        np.testing.assert_allclose(slope, 1024 * 8 * want, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fn", [nn.gelu, jnp.tanh])
def test_derivatives_in_both_modes_and_of_second_order_are_those_of_the_formula(fn):
    z, slope = Z[0], jnp.float32(0.3)
    loss = lambda f: lambda z, s: jnp.sum(jnp.sin(f(fn, z, s)))
    tangents = jnp.flip(z), jnp.float32(-0.7)

    @partial(jax.jit, static_argnums=0)
    def ways(f):
        forward_of_reverse = jax.hessian(loss(f), (0, 1))(z, slope)
        reverse_of_forward = jax.jacrev(jax.jacfwd(loss(f), (0, 1)), (0, 1))(z, slope)
        pushed = jax.jvp(loss(f), (z, slope), tangents)[1]
        linear = jax.linearize(loss(f), z, slope)[1](*tangents)
        of_slope = jax.grad(lambda s: jnp.trace(jax.hessian(loss(f))(z, s)))(slope)
        return forward_of_reverse, reverse_of_forward, pushed, linear, of_slope

    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), ways(interpolate), ways(plain))


def test_what_an_activation_closes_over_is_differentiated():
    def loss(bent, z, beta, slope):
        late = jnp.int32(beta) > 1  # a traced value that is no float
        return jnp.sum(bent(lambda t: jnp.where(late, t * jax.nn.sigmoid(beta * t), t), z, slope))

    for fixed in (jax.grad(loss, (1, 2, 3)), jax.jit(jax.grad(loss, (1, 2, 3)), static_argnums=0)):
        got = fixed(interpolate, Z, jnp.float32(2), jnp.float32(0.3))
        want = fixed(plain, Z, jnp.float32(2), jnp.float32(0.3))
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), got, want)


def test_under_jit_and_vmap():
    slopes = jnp.linspace(0, 1, 3)
    out = jax.jit(jax.vmap(lambda s: interpolate(nn.relu, Z, s)))(slopes)
    for got, slope in zip(out, slopes, strict=True):
        np.testing.assert_allclose(got, plain(nn.relu, Z, slope), atol=1e-6)


def test_gate_is_the_gated_unit_at_zero_and_the_value_at_one():
    gate, value = Z, jnp.flip(Z)
    module = CollapsibleGate(nn.silu)
    variables = module.init(jax.random.key(0), gate, value)
    np.testing.assert_array_equal(module.apply(variables, gate, value), nn.silu(gate) * value)
    one = {"params": {"slope": jnp.ones(())}}
    np.testing.assert_array_equal(module.apply(one, gate, value), value)


def test_the_backward_pass_keeps_the_input_alone():
    """What a plain σ keeps at least; a formula written out keeps several arrays of that size."""

    def kept(fn):
        _, pull = jax.vjp(lambda z, s: fn(nn.gelu, z, s), Z, jnp.float32(0.5))
        return sorted(leaf.size for leaf in jax.tree.leaves(pull))

    assert kept(interpolate) == [1, Z.size]
    assert sum(kept(plain)) > 3 * Z.size


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="how XLA for CPUs fuses")
@pytest.mark.parametrize("fn", [nn.relu, nn.gelu])
def test_a_step_stores_one_more_array_for_each_slope(fn):
    rows, width, sites = 256, 64, 3
    mlp = CollapsibleMLP((width,) * sites + (10,), fn)
    x = jnp.ones((rows, width))
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), x)["params"]
    dense = {name: layer for name, layer in shapes.items() if "act" not in name}

    def plain(params, x):
        for i in range(sites + 1):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"][None]
            x = x if i == sites else fn(x)
        return x

    def arrays_stored(apply, params):
        loss = lambda params, x: jnp.sum(apply(params, x) ** 2)
        memory = jax.jit(jax.grad(loss)).lower(params, x).compile().memory_analysis()
        return memory.temp_size_in_bytes / x.nbytes

    with_slopes = arrays_stored(lambda params, x: mlp.apply({"params": params}, x), shapes)
    assert with_slopes < arrays_stored(plain, dense) + sites + 0.5
