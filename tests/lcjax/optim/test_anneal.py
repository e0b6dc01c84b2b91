import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcjax import (
    Exact,
    SiteSelection,
    anneal_slopes,
    carry_opt_state,
    collapse,
    with_linearity_penalty,
)
from tests.helpers.trees import random_chain, with_slopes

pytestmark = pytest.mark.promotes

STEPS = 10


def params_of(*slopes):
    _, variables = random_chain((8, 7, 6, 5), 6)
    at = {f"act_{i}": slope for i, slope in enumerate(slopes)}
    return with_slopes(jax.tree.map(jnp.asarray, variables["params"]), at)


def train(tx, params, steps):
    """Returns the params and slopes after every step, under gradients that pull slopes away."""

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p: jnp.sin(5 * p) + 0.3, params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.stack([params[f"act_{i}"]["slope"] for i in range(3)])

        (params, state), slopes = jax.lax.scan(step, (params, state), length=steps)
        return params, state, slopes

    return run(params, tx.init(params))


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner",
    [
        optax.sgd(0.1),
        optax.adamw(1e-2, weight_decay=0.3),
        with_linearity_penalty(optax.adam(1e-2), strength=0.0),
        optax.chain(optax.clip_by_global_norm(0.5), optax.lion(1e-3)),
    ],
    ids=["sgd", "adamw", "with_linearity_penalty", "clip+lion"],
)
def test_slopes_follow_the_schedule_to_exactly_1_whatever_the_optimizer(inner):
    tx = optax.chain(inner, anneal_slopes(optax.linear_schedule(0.0, 1.0, STEPS)))
    start = params_of(0.0, 0.3, 1.7)
    params, _, slopes = train(tx, start, STEPS)
    want = np.arange(1, STEPS + 1) / STEPS
    np.testing.assert_allclose(slopes, np.stack([want] * 3, 1), atol=1e-6)
    assert slopes[-1].tolist() == [1.0, 1.0, 1.0]
    _, report = collapse(params, fit=Exact(max_gap=0.0))
    assert len(report.collapsed) == 3
    moved = params["dense_0"]["kernel"] - start["dense_0"]["kernel"]
    assert float(jnp.abs(moved).max()) > 0


@pytest.mark.slow
def test_only_the_chosen_slopes_follow():
    alone = optax.adam(1e-2)
    tx = optax.chain(
        alone, anneal_slopes(optax.linear_schedule(0.0, 1.0, 4), sites=SiteSelection(last=1))
    )
    start = params_of(0.0, 0.3, -3.0)
    with_it, _, slopes = train(tx, start, 6)
    without, _, free = train(alone, start, 6)
    assert slopes[-1, 2] == 1.0 and (slopes[:3, 2] < 1).all()
    np.testing.assert_allclose(slopes[:, :2], free[:, :2], rtol=1e-6)
    kernels = (tree["dense_1"]["kernel"] for tree in (with_it, without))
    np.testing.assert_allclose(*kernels, rtol=1e-5)


@pytest.mark.slow
def test_a_schedule_holds_on_after_a_collapse():
    tx = optax.chain(optax.adam(1e-3), anneal_slopes(optax.linear_schedule(0.0, 1.0, 4)))
    params, state, _ = train(tx, params_of(1.0, 0.0, 1.0), 2)
    compact, report = collapse(with_slopes(params, {"act_2": 1.0}), "act_2")
    carried = carry_opt_state(tx, state, params, compact, report)
    assert int(carried[1].count) == 2
    grads = jax.tree.map(jnp.ones_like, compact)
    updates, carried = jax.jit(tx.update)(grads, carried, compact)
    after = optax.apply_updates(compact, updates)
    assert float(after["act_1"]["slope"]) == 0.75 and "act_2" not in after


def test_bad_use_is_named():
    tx, params = anneal_slopes(optax.constant_schedule(1.0)), params_of(0.0)
    with pytest.raises(ValueError, match="anneal_slopes needs `params`"):
        tx.update(params, tx.init(params))
    with pytest.raises(TypeError, match="schedule is 1.0; expected a function of the number"):
        anneal_slopes(1.0)
    with pytest.raises(ValueError, match="'head/\\*' matches no site"):
        anneal_slopes(optax.constant_schedule(1.0), sites="head/*").init(params)
