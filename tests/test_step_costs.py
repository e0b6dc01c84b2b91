"""What makes a training step cheap changes nothing but rounding."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax import CollapsibleMLP
from lcjax.models.gelu import exact_gelu
from train.flat_tokens import flat_tokens

POINTS = np.concatenate([np.linspace(-12, 12, 4801), [-1e30, 0.0, 1e30]])


def test_exact_gelu_is_x_times_the_normal_distribution():
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


def test_exact_gelu_of_half_precision_keeps_its_small_results():
    x = jnp.asarray(POINTS, "bfloat16")
    np.testing.assert_array_equal(exact_gelu(x), nn.gelu(x, approximate=False))
    assert exact_gelu(x).dtype == "bfloat16"


def test_dense_layers_on_flat_tokens_compute_the_same_and_contract_one_axis():
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
    """The most axes that a product of the function's program sums over."""
    steps = jax.make_jaxpr(function)(variables).eqns
    products = [step for step in steps if step.primitive.name == "dot_general"]
    return max(len(step.params["dimension_numbers"][0][0]) for step in products)


def test_dense_layers_on_matrices_and_other_modules_are_left_alone():
    x = jnp.ones((3, 4))
    for module in (nn.Dense(2), nn.LayerNorm()):
        variables = module.init(jax.random.key(0), x)
        with flat_tokens():
            np.testing.assert_array_equal(module.apply(variables, x), module.apply(variables, x))
