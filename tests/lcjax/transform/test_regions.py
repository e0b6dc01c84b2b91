"""Halves of a site in calls of their own: jitted, rematerialised, or both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.functions import PAIR, X, sloped
from tests.helpers.tolerance import assert_close


@pytest.mark.parametrize(
    "around", [jax.checkpoint, jax.jit, lambda fn: jax.jit(jax.checkpoint(fn))]
)
@pytest.mark.parametrize("half", ["dense", "dense and activation"])
def test_collapse_across_call_boundary(around, half):
    """What a replacement reads may be inside a call that it is outside of."""

    def first(p, x):
        z = x.astype(jnp.bfloat16) @ p["w1"].astype(jnp.bfloat16) * 0.5
        return z if half == "dense" else jax.nn.relu(z)

    def fn(p, x):
        return jnp.tanh(around(first)(p, x).astype(jnp.float32)) @ p["w2"]

    f = lcjax.collapsible(fn)
    params = f.init(PAIR, X)
    compact, _ = f.trace(sloped(params, 1), X).collapse()
    run = lambda tree: jax.value_and_grad(lambda tree: f(tree, X).sum())(tree)
    (bent, _), (value, gradient) = jax.jit(lambda *trees: list(map(run, trees)))(
        sloped(params, 1), compact
    )
    assert_close(value, bent, dtype=jnp.bfloat16, terms=400)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    exact = 0.5 * (X @ PAIR["w1"]) @ PAIR["w2"]
    assert_close(f(compact, X), exact, dtype=jnp.bfloat16, terms=40)
