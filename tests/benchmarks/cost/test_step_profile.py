"""The optimizations of a training step change results by rounding only."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cost.step_profile import programs
from benchmarks.harness.hlo import time_shares
from benchmarks.networks import decoder
from lcjax import CollapsibleMLP
from lcjax.models.activations import exact_gelu
from lcjax.models.attention import attend
from train.engine.flat_tokens import flat_tokens

pytestmark = pytest.mark.slow

POINTS = np.concatenate([np.linspace(-12, 12, 4801), [-1e30, 0.0, 1e30]])


def test_exact_gelu_equals_float64():
    x = jnp.asarray(POINTS, "float32")
    wide = np.asarray(x, np.float64)
    phi = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in wide])
    density = np.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    ours = exact_gelu(x)
    assert ours.dtype == "float32"
    np.testing.assert_allclose(np.asarray(ours, np.float64), wide * phi, rtol=1e-6, atol=2e-6)
    slopes = jax.vmap(jax.grad(exact_gelu))(x)
    wanted = phi + wide * density
    np.testing.assert_allclose(np.asarray(slopes, np.float64), wanted, atol=2e-6)


def test_exact_gelu_bfloat16_equals_flax():
    x = jnp.asarray(POINTS, "bfloat16")
    np.testing.assert_array_equal(exact_gelu(x), nn.gelu(x, approximate=False))
    assert exact_gelu(x).dtype == "bfloat16"


def test_flat_tokens_same_gradients_one_contracted_axis():
    model = CollapsibleMLP((8, 3))
    x = jax.random.normal(jax.random.key(0), (5, 4, 6))
    variables = model.init(jax.random.key(1), x)

    def flat(variables):
        with flat_tokens():
            return model.apply(variables, x).sum()

    plain, ours = jax.grad(lambda v: model.apply(v, x).sum()), jax.grad(flat)
    for one, other in zip(*map(jax.tree.leaves, (plain(variables), ours(variables))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert most_axes(plain, variables) == 2 and most_axes(ours, variables) == 1


def most_axes(function, variables):
    """Returns the largest number of axes that a product in the function's jaxpr contracts."""
    steps = jax.make_jaxpr(function)(variables).eqns
    products = [step for step in steps if step.primitive.name == "dot_general"]
    return max(len(step.params["dimension_numbers"][0][0]) for step in products)


def test_flat_tokens_ignores_matrices_and_other_modules():
    x = jnp.ones((3, 4))
    for module in (nn.Dense(2), nn.LayerNorm()):
        variables = module.init(jax.random.key(0), x)
        with flat_tokens():
            np.testing.assert_array_equal(module.apply(variables, x), module.apply(variables, x))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.promotes
def test_attend_equals_jax_attention(dtype, tolerance, masked):
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, 5, 3, 4), dtype)
    key, value = (3 * jax.random.normal(each, (2, 7, 3, 4), dtype) for each in keys[1:])
    mask = jnp.arange(7) < jnp.array([[[[3]]], [[[1]]]]) if masked else None
    both = [
        jax.vjp(lambda *given, attention=attention: attention(*given, mask=mask), query, key, value)
        for attention in (attend, jax.nn.dot_product_attention)
    ]
    (ours, pull_ours), (theirs, pull_theirs) = both
    assert ours.dtype == dtype and ours.shape == query.shape
    for one, other in zip((ours, *pull_ours(ours)), (theirs, *pull_theirs(theirs)), strict=True):
        one, other = (np.asarray(each, np.float64) for each in (one, other))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.promotes
def test_programs_before_and_after_agree_and_time_shares_add_up():
    network = decoder()
    module = network.module.clone(depth=1, width=16, num_heads=2, mlp_hidden=16)
    window = jax.ShapeDtypeStruct((16,), jnp.int32)
    small = dataclasses.replace(
        network,
        objective=dataclasses.replace(network.objective, module=module),
        example=(window, window),
        batch_size=2,
    )
    forms = programs(small)
    for _ in range(2):
        one, other = (each.call() for each in forms["training step"].values())
        np.testing.assert_allclose(one["train/loss"], other["train/loss"], rtol=1e-5)
    inference = forms["compact inference"]
    np.testing.assert_allclose(inference["before"].call(), inference["after"].call(), atol=1e-5)
    shares = time_shares(forms["training step"]["after"], calls=1)
    assert sum(shares.values()) == pytest.approx(1) and shares["matrix products"] > 0
