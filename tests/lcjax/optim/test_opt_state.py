import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze, meta, unfreeze

from lcjax import (
    Exact,
    SiteSelection,
    add_linearity_penalty,
    anneal_slopes,
    carry_opt_state,
    collapse,
    collapsible,
    update_site_selection,
    with_linearity_penalty,
)
from lcjax.optim.param_states import init_marked, unmarked
from tests.helpers.trees import random_chain, with_slopes

pytestmark = pytest.mark.promotes

X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)


def trained(tx, steps=3):
    """Returns a two-chain model's apply, params and state after a few steps; a's slopes are 1."""
    model, one = random_chain((8, 7, 6), 6)
    head, two = random_chain((9, 5), 6, seed=1)
    params = jax.tree.map(jnp.asarray, {"a": one["params"], "b": two["params"]})
    params = with_slopes(params, {"b/act_0": 0.25})

    def apply(params, x):
        x = model.apply({"params": params["a"]}, x)
        return head.apply({"params": params["b"]}, x)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: ((apply(p, X) - Y) ** 2).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = tx.init(params)
    for _ in range(steps):
        params, state, _ = step(params, state)
    return step, params, state


def boxed(tree):
    """Returns the tree with its kernels in boxes."""

    def box(keys, leaf):
        name = keys[-1].key
        return nn.Partitioned(leaf, ("in", "out")) if name == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(box, tree)


def collapsing_adam():
    # A strength no gradient here reaches keeps a's slopes at 1; b is not selected.
    return with_linearity_penalty(
        optax.adamw(1e-3), strength=1e3, slope_learning_rate=0.1, sites="a/*"
    )


@pytest.mark.slow
def test_untouched_moments_counts_and_weights_stay_and_new_ones_are_fresh():
    tx = collapsing_adam()
    _, params, state = trained(tx)
    compact, report = collapse(params, "a/*")
    carried = carry_opt_state(tx, state, params, compact, report)
    with_shape = jax.tree.map(jnp.shape, carried.inner[0].mu)
    assert with_shape == jax.tree.map(jnp.shape, compact)
    old_mu, new_mu = state.inner[0].mu, carried.inner[0].mu
    kept = old_mu["b"]["dense_0"]["kernel"]
    np.testing.assert_array_equal(new_mu["b"]["dense_0"]["kernel"], kept)
    assert float(jnp.abs(kept).max()) > 0
    level = max(float(state.inner[0].nu["a"][f"dense_{i}"]["kernel"].mean()) for i in range(3))
    np.testing.assert_allclose(carried.inner[0].nu["a"]["dense_2"]["kernel"], level, rtol=1e-6)
    # The chain's last Dense keeps its shape (7, 6) or not, but what it holds is new either way.
    assert not new_mu["a"]["dense_2"]["kernel"].any() and not new_mu["a"]["dense_2"]["bias"].any()
    assert int(carried.inner[0].count) == int(state.inner[0].count) == 3
    assert int(carried.shrink.count) == 3
    assert not bool(carried.selected["b"]["act_0"]["slope"])


def test_selection_is_carried_and_not_counted_anew():
    tx = with_linearity_penalty(
        optax.sgd(1e-3), strength=1e3, sites=SiteSelection(last=2), weights=[2.0, 3.0]
    )
    params = jax.tree.map(jnp.asarray, random_chain((8, 7, 9, 6), 6)[1]["params"])
    state = tx.init(params)
    compact, report = collapse(params, "act_2")
    carried = carry_opt_state(tx, state, params, compact, report)
    assert float(carried.shrink.weights["act_1"]["slope"]) == 2.0
    assert not bool(carried.selected["act_0"]["slope"])
    again, report = collapse(compact, "act_1")
    carried = carry_opt_state(tx, carried, compact, again, report)
    assert float(carried.shrink.weights["act_0"]["slope"]) == 0.0


def test_training_goes_on_from_where_it_was():
    tx = collapsing_adam()
    step, params, state = trained(tx)
    compact, report = collapse(params, "a/*")
    _, _, before = step(params, state)
    carried = carry_opt_state(tx, state, params, compact, report)
    _, after_state, after = step(compact, carried)
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert int(after_state.inner[0].count) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "tx",
    [
        optax.adam(optax.cosine_decay_schedule(1e-3, 10)),
        optax.adafactor(1e-3, min_dim_size_to_factor=2),
        optax.MultiSteps(collapsing_adam(), 2),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(1e-3, 0, 10)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-4)),
        optax.adamw(1e-3, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
    ],
    ids=["adam", "adafactor", "MultiSteps", "inject_hyperparams", "lion", "masked"],
)
def test_any_optimizer_goes_on(tx):
    step, params, state = trained(tx)
    linear = with_slopes(params, {"a/act_0": 1.0, "a/act_1": 1.0})
    compact, report = collapse(linear, "a/*")
    carried = carry_opt_state(tx, state, params, compact, report)
    expected = jax.tree.structure(unmarked(init_marked(tx, compact)))
    assert jax.tree.structure(carried) == expected
    _, new_state, loss = step(compact, carried)
    assert jax.tree.structure(new_state) == expected and jnp.isfinite(loss)


LOSSES_GO_ON = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "nadam": optax.nadam(1e-3),
    "adabelief": optax.adabelief(1e-3),
    "lamb": optax.lamb(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "lion": optax.lion(1e-4),
    "muon": optax.contrib.muon(1e-3),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-3),
    "prodigy": optax.contrib.prodigy(1.0),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if one == "adam" else pytest.mark.slow) for one in LOSSES_GO_ON],
)
def test_the_loss_does_not_jump_after_an_exact_collapse(name):
    """Of the 20 steps after it none is worse than the last one before it by more than 1 %."""
    tx = with_linearity_penalty(
        LOSSES_GO_ON[name], strength=1e3, slope_learning_rate=0.1, sites="a/*"
    )
    step, params, state = trained(tx, steps=60)
    compact, report = collapse(params, "a/*")
    _, _, before = step(params, state)
    state, losses = carry_opt_state(tx, state, params, compact, report), []
    for _ in range(20):
        compact, state, loss = step(compact, state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses[0], before, rtol=1e-5)
    assert max(losses) <= 1.01 * float(before)


def test_a_state_in_one_vector_is_refused():
    tx = optax.flatten(optax.adam(1e-3))
    params = jax.tree.map(jnp.asarray, random_chain((8, 7, 6), 6)[1]["params"])
    compact, report = collapse(params, "act_0", Exact(max_gap=9))
    with pytest.raises(ValueError, match="got shape .*optax.flatten makes it.*without"):
        carry_opt_state(tx, tx.init(params), params, compact, report)


@pytest.mark.slow
def test_a_fused_leaf_of_a_function_starts_at_its_own_kernels_level():
    f = collapsible(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"] + x @ p["other"])
    x, tx = jnp.ones((2, 3)), optax.adam(1e-3)
    tree = f.init({"up": jnp.eye(3), "down": jnp.eye(3), "other": jnp.eye(3)}, x)
    sizes = {"up": 2.0, "down": 3.0, "other": 50.0}
    grads = jax.tree.map(jnp.zeros_like, tree)
    grads["model"] = {name: jnp.full((3, 3), size) for name, size in sizes.items()}
    _, state = tx.update(grads, tx.init(tree), tree)
    compact, report = f.trace(tree, x).collapse(fit=Exact(max_gap=9))
    carried = carry_opt_state(tx, state, tree, compact, report)
    (fused,) = carried[0].nu["fused"].values()
    np.testing.assert_allclose(fused["kernel"], 1e-3 * 3.0**2, rtol=1e-4)


@pytest.mark.parametrize("wrap", [freeze, boxed], ids=["frozen", "boxed"])
def test_frozen_and_boxed_trees_carry_what_plain_ones_do(wrap):
    tx = optax.adam(1e-3)
    _, plain, _ = trained(tx, steps=0)
    grads = jax.tree.map(jnp.ones_like, plain)

    def carried(convert):
        params = convert(plain)
        _, state = jax.jit(tx.update)(convert(grads), tx.init(params), params)
        compact, report = collapse(params, "a/*")
        return meta.unbox(carry_opt_state(tx, state, params, compact, report)[0].mu)

    got, want = carried(wrap), carried(lambda tree: tree)
    assert float(want["b"]["dense_0"]["kernel"].max()) > 0
    chex.assert_trees_all_equal(unfreeze(got), want)


@pytest.mark.slow
def test_update_site_selection_takes_the_new_sites_and_keeps_all_else():
    """As between two stages: a's sites are gone, and now b's is penalised, with another weight."""
    old = with_linearity_penalty(
        optax.adamw(1e-3), strength=1e3, slope_learning_rate=0.1, sites="a/*"
    )
    new = with_linearity_penalty(optax.adamw(1e-3), strength=2.0, sites=["b/*"], weights=3.0)
    step, params, state = trained(old)
    compact, report = collapse(params, "a/*")
    carried = carry_opt_state(old, state, params, compact, report)
    again = update_site_selection(new, carried, compact)
    assert bool(again.selected["b"]["act_0"]["slope"])
    assert float(again.shrink.weights["b"]["act_0"]["slope"]) == 3.0
    assert int(again.shrink.count) == int(again.inner[0].count) == 3
    chex.assert_trees_all_equal(again.inner, carried.inner)
    chex.assert_trees_all_equal(again.momentum, carried.momentum)
    grads = jax.tree.map(jnp.zeros_like, compact)
    updates, _ = new.update(grads, again, compact)
    assert float(updates["b"]["act_0"]["slope"]) > 0


def test_update_site_selection_goes_through_a_chain_and_refuses_another_structure():
    params = jax.tree.map(jnp.asarray, random_chain((8, 7, 6), 6)[1]["params"])

    def tx(site):
        inner = with_linearity_penalty(optax.sgd(1e-3), strength=1.0, sites=[site])
        anneal = anneal_slopes(optax.linear_schedule(0, 1, 4), sites=[site])
        return optax.chain(inner, add_linearity_penalty(1.0, sites=[site]), anneal)

    state = update_site_selection(tx("act_1"), tx("act_0").init(params), params)
    chex.assert_trees_all_equal(state, tx("act_1").init(params))
    with pytest.raises(ValueError, match="differs from the previous one in its sites only"):
        update_site_selection(tx("act_1"), optax.sgd(0.1).init(params), params)


def test_a_state_of_another_optimizer_is_an_error():
    tx = collapsing_adam()
    _, params, _ = trained(tx, steps=0)
    compact, report = collapse(params, "a/*")
    with pytest.raises(ValueError, match="does not have the structure of tx.init"):
        carry_opt_state(tx, optax.sgd(0.1).init(params), params, compact, report)
    with pytest.raises(ValueError, match="does not have the structure of tx.init"):
        carry_opt_state(tx, tx.init({"a": params["a"]}), params, compact, report)
