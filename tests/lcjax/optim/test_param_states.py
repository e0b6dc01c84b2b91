import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import lcjax
from lcjax.optim.param_states import init_marked, param_paths, unmarked

# The path of one param is the end of another's, and both are names of fields of Adam's state.
PARAMS = {
    "act_0": {"slope": jnp.float32(0.5)},
    "kernel": jnp.ones((2, 2)),
    "nu": {"kernel": jnp.ones((3, 3))},
    "mu": {"nu": {"kernel": jnp.ones((4, 4))}},
}


def test_param_paths_are_exact_where_paths_end_alike():
    paths = param_paths(init_marked(optax.adam(0.1), PARAMS))
    assert paths["0/mu/nu/kernel"] == "nu/kernel"
    assert paths["0/mu/mu/nu/kernel"] == "mu/nu/kernel"
    assert paths["0/nu/kernel"] == "kernel"
    assert "0/count" not in paths and len(paths) == 8


@pytest.mark.parametrize(
    "tx",
    [
        lcjax.with_linearity_penalty(optax.adam(0.1), strength=0.1),
        lcjax.anneal_slopes(optax.constant_schedule(1.0)),
        lcjax.add_linearity_penalty(0.1),
        lcjax.proximal_linearity_penalty(0.1, 0.1),
        optax.MultiSteps(lcjax.with_linearity_penalty(optax.sgd(0.1), strength=0.1), 2),
    ],
    ids=["with_linearity_penalty", "anneal", "add", "proximal", "MultiSteps"],
)
def test_tree_map_params_maps_states_of_every_transform(tx):
    """`optax.tree_utils.tree_map_params` calls `init` on a placeholder without slopes."""
    state = tx.init(PARAMS)
    marked = optax.tree_utils.tree_map_params(
        tx,
        lambda leaf: leaf if isinstance(leaf, optax.MaskedNode) else "param",
        state,
        transform_non_params=lambda _: "other",
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    paths = param_paths(init_marked(tx, PARAMS))
    flat = jax.tree.leaves(marked)
    assert flat.count("param") == len(paths) and flat.count("other") == len(flat) - len(paths)


def test_init_marked_selects_no_site_and_keeps_the_structure():
    tx = lcjax.with_linearity_penalty(optax.adam(0.1), strength=0.1, sites="act_*")
    state = unmarked(init_marked(tx, PARAMS))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    assert not bool(state.selected["act_0"]["slope"])
    linear = {"dense_0": {"kernel": jnp.ones((2, 2))}}
    assert not jax.tree.leaves(unmarked(init_marked(tx, linear)).selected)


def by_flat_path(params):
    return traverse_util.path_aware_map(lambda path, leaf: leaf.ndim > 1, params)


def by_key(params):
    return jax.tree_util.tree_map_with_path(lambda keys, _: keys[-1].key == "kernel", params)


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    "mask",
    [by_flat_path, by_key, lambda params: {name: name == "b" for name in params}],
    ids=["flat paths", "last key", "prefix"],
)
def test_carry_opt_state_keeps_moments_under_masks_of_the_user(mask):
    model = lcjax.CollapsibleMLP((4, 3), nn.relu)
    one = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    params = lcjax.map_slopes(jnp.ones_like, {"a": one, "b": one})
    tx = optax.masked(optax.adam(0.1), mask)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    compact, report = lcjax.collapse(params, "a/act_0")
    carried = lcjax.carry_opt_state(tx, state, params, compact, report)
    want = jax.tree.structure(tx.init(compact))
    assert jax.tree.structure(carried) == want
    kept = state.inner_state[0].mu["b"]["dense_0"]["kernel"]
    np.testing.assert_array_equal(carried.inner_state[0].mu["b"]["dense_0"]["kernel"], kept)


@pytest.mark.slow
@pytest.mark.promotes
def test_carry_opt_state_follows_params_whose_paths_end_alike():
    model = lcjax.CollapsibleMLP((4, 3), nn.relu)
    one = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    params = lcjax.map_slopes(jnp.ones_like, one | {"mu": one})
    tx = optax.adam(0.1)
    grads = jax.tree.map(jnp.ones_like, params)
    _, state = tx.update(grads, tx.init(params), params)
    compact, report = lcjax.collapse(params, "act_0")
    carried = lcjax.carry_opt_state(tx, state, params, compact, report)
    np.testing.assert_array_equal(
        carried[0].mu["mu"]["dense_1"]["kernel"], state[0].mu["mu"]["dense_1"]["kernel"]
    )
    assert not carried[0].mu["dense_1"]["kernel"].any()


def test_carry_opt_state_continues_after_the_selected_sites_are_collapsed():
    """A second collapse, of a site that the optimizer never selected."""
    model = lcjax.CollapsibleMLP((4, 3), nn.relu)
    one = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    params = lcjax.map_slopes(jnp.ones_like, {"a": one, "b": one})
    tx = lcjax.with_linearity_penalty(optax.sgd(0.1), strength=0.1, sites="a/*")
    state = tx.init(params)
    for sites in ("a/act_0", "b/act_0"):
        compact, report = lcjax.collapse(params, sites)
        state = lcjax.carry_opt_state(tx, state, params, compact, report)
        params = compact
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
