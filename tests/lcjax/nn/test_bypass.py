"""Narrow pairs with an affine map beside them: what runs, and which trees are refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import CollapseError, CollapsibleGLU, CollapsibleMLP
from tests.helpers.tolerance import assert_close

X = jax.random.normal(jax.random.key(0), (5, 6))


def arrays(*shapes):
    rng = np.random.default_rng(1)
    return [jax.device_put(np.float32(rng.normal(size=shape))) for shape in shapes]


def narrow_chain():
    """Returns params of features (8, 7, 4) whose first pair has 3 units and a bypass."""
    a, b, c, w = arrays((6, 3), (3, 7), (7, 4), (6, 7))
    return {
        "dense_0": {"kernel": a},
        "act_0": {"slope": jnp.float32(0.25)},
        "bypass_0": {"kernel": w, "bias": jnp.arange(7.0)},
        "dense_1": {"kernel": b},
        "act_1": {"slope": jnp.float32(0.0)},
        "dense_2": {"kernel": c, "bias": jnp.ones(4)},
    }


@pytest.mark.slow
def test_mlp_adds_the_bypass_to_the_next_dense():
    params = narrow_chain()
    z = X @ params["dense_0"]["kernel"]
    h = 0.25 * z + 0.75 * jnp.maximum(z, 0)
    z = h @ params["dense_1"]["kernel"] + X @ params["bypass_0"]["kernel"] + jnp.arange(7.0)
    expected = jnp.maximum(z, 0) @ params["dense_2"]["kernel"] + 1
    got = CollapsibleMLP((8, 7, 4), nn.relu).apply({"params": params}, X)
    assert_close(got, expected, dtype=np.float32, terms=20)


def test_mlp_adds_the_bypass_to_the_dense_into_which_the_next_was_fused():
    params = narrow_chain()
    a, b, w = params["dense_0"]["kernel"], *arrays((3, 4), (6, 4))
    bypass = {"kernel": w, "bias": jnp.ones(4)}
    tree = {"dense_0": {"kernel": a}, "act_0": params["act_0"], "bypass_0": bypass}
    got = CollapsibleMLP((8, 7, 4), nn.relu).apply({"params": tree | {"dense_2": {"kernel": b}}}, X)
    z = X @ a
    expected = (0.25 * z + 0.75 * jnp.maximum(z, 0)) @ b + X @ w + 1
    assert_close(got, expected, dtype=np.float32, terms=20)


@pytest.mark.parametrize(
    ("module", "name"),
    [(CollapsibleMLP((8, 4)), "bypass_0"), (CollapsibleGLU(8, 4), "bypass")],
    ids=["MLP", "GLU"],
)
def test_removed_pair_is_the_bias_of_its_bypass(module, name):
    got = module.apply({"params": {name: {"bias": jnp.arange(4.0)}}}, X)
    np.testing.assert_array_equal(got, jnp.broadcast_to(jnp.arange(4.0), (5, 4)))


def test_glu_runs_narrow_beside_its_bypass():
    gate, up, down, w = arrays((6, 3), (6, 3), (3, 4), (6, 4))
    params = {
        name: {"kernel": k}
        for name, k in zip(["gate", "up", "down"], [gate, up, down], strict=True)
    }
    params |= {"act": {"slope": jnp.float32(0)}, "bypass": {"kernel": w, "bias": jnp.ones(4)}}
    got = CollapsibleGLU(8, 4).apply({"params": params}, X)
    expected = (nn.silu(X @ gate) * (X @ up)) @ down + X @ w + 1
    assert_close(got, expected, dtype=np.float32, terms=20)


def test_bypass_is_differentiated_and_jitted_in_bfloat16():
    module = CollapsibleMLP((8, 7, 4), nn.relu, dtype=jnp.bfloat16)
    loss = lambda params: module.apply({"params": params}, X).astype(jnp.float32).sum()
    grads = jax.jit(jax.grad(loss))(narrow_chain())
    assert jax.tree.structure(grads) == jax.tree.structure(narrow_chain())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert module.apply({"params": narrow_chain()}, X).dtype == jnp.bfloat16


def without(params, *names):
    return {name: value for name, value in params.items() if name not in names}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (without(narrow_chain(), "bypass_0"), r"dense_0: the kernel is 3 wide"),
        (without(narrow_chain(), "dense_2"), r"dense_2: missing"),
        (without(narrow_chain(), "dense_0"), r"dense_0: missing, though params have act_0"),
        (without(narrow_chain(), "dense_0", "act_0"), r"bypass_0: found without act_0"),
        (
            narrow_chain() | {"bypass_0": {"bias": jnp.ones(4)}},
            r"bypass_0: got a bias of width 4, expected 7",
        ),
        (narrow_chain() | {"bypass_2": {"bias": jnp.ones(4)}}, r"bypass_2: got .* a later place"),
        ({"bypass_0": {"bias": jnp.ones(100)}}, r"bypass_0: got a bias of width 100, expected 4"),
    ],
)
def test_mlp_rejects_trees_that_are_half_done(params, message):
    with pytest.raises(CollapseError, match=message):
        CollapsibleMLP((8, 7, 4), nn.relu).apply({"params": params}, X)


def test_glu_rejects_a_narrow_tree_without_its_bypass():
    params = {
        name: {"kernel": k}
        for name, k in zip(["gate", "up", "down"], arrays((6, 3), (6, 3), (3, 4)), strict=True)
    }
    with pytest.raises(CollapseError, match="gate: the kernel is 3 wide"):
        CollapsibleGLU(8, 4).apply({"params": params | {"act": {"slope": jnp.float32(0)}}}, X)
