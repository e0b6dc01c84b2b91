import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze, meta

import lcjax
from lcjax import CollapseError

X = jnp.ones((2, 3))


def tree_of(*slopes):
    sites = {f"block_{i}": {"act_0": {"slope": jnp.float32(s)}} for i, s in enumerate(slopes)}
    return sites | {"head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}


def test_slopes_are_in_natural_order_of_their_sites():
    params = {f"block_{i}": {"act_0": {"slope": float(i)}} for i in (10, 2, 0)}
    assert list(lcjax.slopes(params).items()) == [
        ("block_0/act_0", 0.0),
        ("block_2/act_0", 2.0),
        ("block_10/act_0", 10.0),
    ]


def boxed(tree):
    return jax.tree.map(lambda leaf: meta.Partitioned(leaf, (None,) * leaf.ndim), tree)


@pytest.mark.parametrize(
    "wrap", [lambda tree: {"params": tree}, freeze, boxed], ids=["variables", "frozen", "boxed"]
)
def test_slopes_and_map_slopes_accept_every_form_of_tree(wrap):
    tree = wrap(tree_of(0.25, 0.5))
    assert lcjax.slopes(tree) == {"block_0/act_0": 0.25, "block_1/act_0": 0.5}
    moved = lcjax.map_slopes(lambda slope, other: slope + 2 * other, tree, tree)
    assert jax.tree.structure(moved) == jax.tree.structure(tree)
    assert lcjax.slopes(moved) == {"block_0/act_0": 0.75, "block_1/act_0": 1.5}
    assert lcjax.count_parameters(tree) == 10


def test_slopes_of_a_function_have_the_paths_of_its_sites():
    f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
    tree = f.init({"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2))}, X)
    assert list(map(float, lcjax.slopes(tree).values())) == [0.0]
    assert lcjax.count_parameters(tree) == 20


def test_slopes_skip_a_leaf_that_is_the_models_own():
    """A leaf named slope with other leaves in its module belongs to the model."""
    tree = {"line": {"slope": jnp.ones(()), "intercept": jnp.ones(())}, **tree_of(0.5)}
    assert lcjax.slopes(tree) == {"block_0/act_0": 0.5}
    assert lcjax.count_parameters(tree) == 12


def test_map_slopes_leaves_masked_leaves():
    tree = {"act_0": {"slope": optax.MaskedNode()}, "act_1": {"slope": jnp.float32(0.5)}}
    moved = lcjax.map_slopes(lambda slope: slope + 1, tree)
    assert isinstance(moved["act_0"]["slope"], optax.MaskedNode)
    assert lcjax.slopes(moved) == {"act_1": 1.5}


def test_map_slopes_runs_under_jit():
    zeroed = jax.jit(lambda tree: lcjax.map_slopes(jnp.zeros_like, tree))(tree_of(0.5))
    assert float(zeroed["block_0"]["act_0"]["slope"]) == 0
    np.testing.assert_array_equal(zeroed["head"]["bias"], 1)


def test_count_parameters_counts_params_only_and_takes_shapes():
    model = lcjax.CollapsibleMLP((8, 2), nn.relu, norm="batch")
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    assert lcjax.count_parameters(variables) == 3 * 8 + 8 + 8 * 2 + 2 + 2 * 8


def test_select_sites_is_the_selection_of_the_optimizers():
    params = tree_of(0.0, 0.0, 0.0)
    for selection in ({}, {"last": 2}, {"where": "block_[01]/*"}, {"sites": iter(["block_2/*"])}):
        selection = lcjax.SiteSelection(**selection)
        tx = lcjax.anneal_slopes(optax.constant_schedule(1.0), sites=selection)
        selected = [site for site, mark in lcjax.slopes(tx.init(params).selected).items() if mark]
        assert lcjax.select_sites(params, **vars(selection)) == selected
    order = [f"block_{i}/act_0" for i in (2, 0, 1)]
    assert lcjax.select_sites(params, last=1, order=order) == ["block_1/act_0"]


def test_select_sites_rejects_selections_of_nothing():
    with pytest.raises(CollapseError, match="'x' matches no site"):
        lcjax.select_sites(tree_of(0.0), where="x")
    with pytest.raises(CollapseError, match="no sites: the tree has no leaf"):
        lcjax.select_sites(tree_of())
    with pytest.raises(ValueError, match="last is 3; expected a number of sites from 1 to 2"):
        lcjax.select_sites(tree_of(0.0, 0.0), last=3)
