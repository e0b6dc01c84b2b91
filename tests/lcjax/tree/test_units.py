"""Slopes of single hidden units in trees: which they are, and what reads them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

import lcjax
from lcjax import CollapsibleActivation, CollapsibleGLU, CollapsibleMLP, with_unit_slopes
from lcjax.errors import CollapseError
from lcjax.tree.units import units_by_path, units_like

X = jnp.ones((2, 4))


def init(module):
    return module.init(jax.random.key(0), X)


def test_the_kernel_before_a_site_tells_units_from_stacked_layers():
    kernel = {"kernel": jnp.ones((3, 4, 3))}  # as many layers as units
    tree = {
        "dense_0": kernel,
        "act_0": {"slope": jnp.ones(3)},
        "mlp": {"up": kernel, "gate": kernel, "act": {"slope": jnp.ones((3, 3))}},
        "own": {"Dense_0": {"kernel": jnp.ones((4, 3))}, "act_7": {"slope": jnp.ones(3)}},
        "alone": {"act_1": {"slope": jnp.ones(3)}},
        "scalar": {"dense_0": kernel, "act_0": {"slope": jnp.ones(())}},
    }
    assert units_by_path(tree) == {
        "act_0/slope": 1,
        "mlp/act/slope": 3,
        "own/act_7/slope": 3,
        "alone/act_1/slope": 1,
        "scalar/act_0/slope": 1,
    }
    assert units_like(tree)["mlp"] == {
        "up": {"kernel": 1},
        "gate": {"kernel": 1},
        "act": {"slope": 3},
    }


@pytest.mark.parametrize(
    "module", [CollapsibleMLP((8, 3), nn.relu), CollapsibleGLU(8, 3, nn.silu)], ids=["mlp", "glu"]
)
def test_with_unit_slopes_in_all_kinds_of_trees(module):
    variables = init(module)
    abstract = jax.eval_shape(with_unit_slopes, variables)
    boxed = jax.tree.map(lambda leaf: meta.Partitioned(leaf, (None,) * leaf.ndim), variables)
    for tree in (variables, variables["params"], boxed, jax.eval_shape(lambda: variables)):
        (slope,) = lcjax.slopes(with_unit_slopes(tree)).values()
        assert slope.shape == (8,) == next(iter(lcjax.slopes(abstract).values())).shape


def test_own_modules_keep_their_slopes():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(CollapsibleActivation(nn.relu)(nn.Dense(3)(x)))

    variables = init(Own())
    assert list(lcjax.slopes(with_unit_slopes(variables)).values()) == [0.0]


def test_readers_of_slopes_accept_vectors(tmp_path):
    module = CollapsibleMLP((8, 8, 3), nn.relu, slope_per="unit")
    variables = init(module)
    assert lcjax.count_parameters(variables) == lcjax.count_parameters(init(module.clone()))
    assert lcjax.select_sites(variables["params"], last=1) == ["act_1"]
    slope = jnp.linspace(0, 1, 8)
    variables = lcjax.map_slopes(lambda _: slope, variables)
    first, _ = lcjax.find_sites(variables)
    assert (first.slope, first.gap, first.linear_units, first.layers) == (0, 1, 1, 1)
    assert "1 of 8 units linear" in str(lcjax.find_sites(variables))
    shapes = jax.eval_shape(lambda: variables)
    assert lcjax.find_sites(shapes)[0].linear_units is None
    lcjax.save(tmp_path / "a", variables)
    for like in (None, shapes):
        restored = lcjax.restore(tmp_path / "a", like=like)
        np.testing.assert_array_equal(lcjax.slopes(restored)["act_1"], slope)


def test_stacked_slopes_of_units_are_counted_over_all_layers():
    params = {
        "dense_0": {"kernel": jnp.ones((2, 4, 8))},
        "act_0": {"slope": jnp.zeros((2, 8)).at[1, :3].set(1)},
        "dense_1": {"kernel": jnp.ones((2, 8, 4))},
    }
    (site,) = lcjax.find_sites(params)
    assert (site.layers, site.linear_units) == (2, 3)
    assert "3 of 16 units linear" in str(lcjax.find_sites(params))
    layers = lcjax.unstack_layers({"mlp": params}, "mlp")
    assert lcjax.find_sites(layers)[1].linear_units == 3


def test_another_shape_than_of_layers_or_units_is_an_error():
    params = {
        "dense_0": {"kernel": jnp.ones((4, 8))},
        "act_0": {"slope": jnp.zeros(4)},
        "dense_1": {"kernel": jnp.ones((8, 4))},
    }
    with pytest.raises(CollapseError, match=r"act_0: got a slope of shape \(4,\), expected \(\)"):
        lcjax.find_sites(params)
