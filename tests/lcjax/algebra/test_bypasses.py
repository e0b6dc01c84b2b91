"""Bypasses stacked on Dense layers, and chains that take them in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.algebra.bypasses import split_dense, stack_dense, widen
from lcjax.algebra.fuse import Affine, fuse_dense
from lcjax.algebra.moments import measure, submoments
from lcjax.algebra.sharding import take_units
from tests.helpers.tolerance import assert_close

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6))


def dense(d_in, d_out, bias=True):
    kernel = RNG.normal(size=(d_in, d_out))
    return {"kernel": kernel} | ({"bias": RNG.normal(size=d_out)} if bias else {})


def run(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0) if "kernel" in layer else layer["bias"]


@pytest.mark.parametrize("width", [0, 6])
@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_stacked_dense_is_the_sum_and_splits_again(width, xp):
    bypass, below = dense(6, 3), dense(4, 3, bias=False)
    bypass = bypass if width else {"bias": bypass["bias"]}
    bypass, below = jax.tree.map(xp.asarray, (bypass, below))
    stacked = stack_dense(bypass, below)
    h = RNG.normal(size=(50, 4))
    both = np.concatenate([X[:, :width], h], 1)
    expected = run(bypass, X) + run(below, h)
    assert_close(run(stacked, both), expected, dtype=np.float32, terms=20)
    parts = split_dense(stacked, width)
    jax.tree.map(np.testing.assert_array_equal, parts, (bypass, below))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, (bypass, below)))
    abstract = split_dense(stack_dense(*shapes), width)
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, parts)


def test_split_dense_without_a_bias_gives_zeros():
    bypass, below = split_dense(dense(10, 3, bias=False), 6)
    np.testing.assert_array_equal(bypass["bias"], np.zeros(3))
    assert bypass["kernel"].shape == (6, 3) and below["kernel"].shape == (4, 3)


@pytest.mark.parametrize("kernels", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("offset", [0, 2])
def test_widened_chain_equals_one_with_bypasses(kernels, offset):
    layers = [dense(6, 5), dense(5, 4, bias=False), dense(4, 3, bias=False)]
    between = [Affine(RNG.normal(size=5), RNG.normal(size=5)), None]
    bypasses = [dense(6 - offset, 4), dense(5, 3)]
    for i, linear in enumerate(kernels):
        if not linear:
            bypasses[i].pop("kernel")
    h = run(layers[0], X) * between[0].scale + between[0].shift
    middle = run(layers[1], h) + run(bypasses[0], X[:, offset:])
    expected = run(layers[2], middle) + run(bypasses[1], h)
    wide, maps = widen(layers, between, bypasses, offset)
    fused = fuse_dense(wide, [None, *maps])
    assert_close(run(fused, X), expected, dtype=np.float64, terms=1000)


def test_submoments_are_those_of_the_columns():
    t, columns = RNG.normal(size=(50, 3)), np.array([4, 0, 2])
    whole = measure(jnp.asarray(X, jnp.float32), jnp.asarray(t, jnp.float32))
    part = measure(jnp.asarray(X[:, columns], jnp.float32), jnp.asarray(t, jnp.float32))
    got = submoments(jax.device_get(whole), columns)
    jax.tree.map(lambda a, b: assert_close(a, b, dtype=np.float32, terms=500), got, part)


def test_take_units_keeps_the_kind_of_array():
    units = np.array([1, 3])
    assert isinstance(take_units(X, units), np.ndarray)
    taken = take_units(jnp.asarray(X, jnp.bfloat16), units)
    assert isinstance(taken, jax.Array) and taken.dtype == jnp.bfloat16
    np.testing.assert_array_equal(take_units(X, units), X[:, units])
