"""The optimizer of every run: warm-up and cosine, decay on kernels alone, the penalty's flags."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.runs import configured
from train.engine.optimizers import make_optimizer, with_slopes_for

PARAMS = {
    f"block_{i}": {
        "act": {"slope": jnp.float32(0.25)},
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2)},
    }
    for i in range(4)
}
STEPS = 20
SHORT = "ignore:.*cannot bring"  # some strengths here are 0, some runs of one step


def moved(gradient, *, steps=STEPS, **flags):
    """Returns the params before every step and at the end, under a constant gradient."""
    config = configured(**{"strength": 1.0, "weight_decay": 0.0, "learning_rate": 0.5} | flags)
    tx = make_optimizer(config.optimizer, config.penalty, steps)
    grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), params

    (last, _), before = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), length=steps)
    return jax.tree.map(lambda b, e: np.concatenate([b, e[None]]), before, last)


def slopes(params):
    return [float(params[f"block_{i}"]["act"]["slope"][-1]) for i in range(4)]


@pytest.mark.promotes
def test_the_rate_rises_then_falls_as_a_cosine_to_zero():
    """Under a constant gradient Adam moves by its learning rate."""
    kernel = moved(1.0, warmup=0.25)["block_0"]["dense"]["kernel"][:, 0, 0]
    rates = -np.diff(kernel)
    np.testing.assert_allclose(rates[:6], 0.5 * np.arange(6) / 5, atol=1e-5)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(15) / 15)) / 2
    np.testing.assert_allclose(rates[5:], cosine, atol=1e-5)


@pytest.mark.promotes
@pytest.mark.filterwarnings(SHORT)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.99), (3, 0.9), (1, 0.0)])
def test_a_warm_up_always_leaves_a_step(steps, warmup):
    assert np.isfinite(moved(1.0, steps=steps, warmup=warmup)["block_0"]["norm"]["scale"]).all()


@pytest.mark.promotes
@pytest.mark.filterwarnings(SHORT)
def test_decay_is_on_kernels_alone():
    params = moved(0.0, weight_decay=0.1, strength=0.0)["block_1"]
    assert (params["dense"]["kernel"][-1] < 0.9).all()
    for leaf in (params["dense"]["bias"], params["norm"]["scale"], params["act"]["slope"]):
        assert (leaf == leaf[0]).all()


@pytest.mark.promotes
@pytest.mark.parametrize(("clip_norm", "held"), [(1.0, 1.0), (None, 100.0)])
def test_clip_norm_bounds_the_whole_gradient(clip_norm, held):
    """Adam's first moment, of which one step keeps a tenth, shows what came through."""
    config = configured(clip_norm=clip_norm, strength=1.0)
    tx = make_optimizer(config.optimizer, config.penalty, STEPS)
    size = sum(leaf.size for leaf in jax.tree.leaves(PARAMS)) ** 0.5
    grads = jax.tree.map(lambda p: jnp.full_like(p, 100.0 / size), PARAMS)
    _, state = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS)
    moments = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(10 * optax.tree.norm(moments), held, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    ("flags", "linear"),
    [
        ({}, [0, 1, 2, 3]),
        ({"last": 1}, [3]),
        ({"last": 0.5}, [2, 3]),
        ({"where": "block_[02]/*"}, [0, 2]),
        ({"strength": 0.0}, []),
        ({"slope_learning_rate": 0.0}, []),
    ],
)
@pytest.mark.filterwarnings(SHORT)
def test_the_flags_of_the_penalty_choose_the_sites(flags, linear):
    got = slopes(moved(0.0, **flags))
    assert got == [1.0 if i in linear else 0.25 for i in range(4)]


@pytest.mark.promotes
def test_slopes_stand_still_until_their_start():
    path = moved(-0.1, start=0.5)["block_3"]["act"]["slope"]
    assert (path[:11] == 0.25).all() and path[11] > 0.25
    assert path[-1] == 1.0


@pytest.mark.promotes
def test_l2_never_arrives():
    assert all(0.9 < slope < 1 for slope in slopes(moved(0.0, penalty="l2")))


@pytest.mark.promotes
def test_too_few_steps_for_the_strength_warn():
    with pytest.warns(UserWarning, match="20 steps of this strength .* cannot bring 4 of 4 slopes"):
        moved(0.0, strength=0.1)


def test_slopes_of_units_begin_at_0_but_for_those_that_are_linear_from_the_start():
    mlp = {"dense_0": {"kernel": jnp.ones((2, 8))}, "act_0": {"slope": jnp.zeros(())}}
    slopes_for = lambda **flags: with_slopes_for(configured(**flags).penalty, mlp)["act_0"]["slope"]
    assert slopes_for().shape == ()
    np.testing.assert_array_equal(slopes_for(slope_per="unit"), np.zeros(8))
    fixed = slopes_for(slope_per="unit", linear_units=0.75)
    np.testing.assert_array_equal(fixed, [1] * 6 + [0] * 2)
