"""The published method on trees of params that the presets do not have."""

import flax.linen as nn
import jax

import lcjax
from tests.helpers.runs import configured, prepare
from train.protocols.paper import Paper


def test_chosen_slopes_are_found_in_boxed_params():
    paper = Paper(prepare(configured(hidden=(16, 16), protocol="paper", last=1)).task)
    params = paper.task.variables["params"]
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, (None,) * leaf.ndim), params)
    want = jax.tree.leaves(paper._chosen(params))
    assert sum(want) == 1 and len(want) == len(jax.tree.leaves(params))
    assert jax.tree.leaves(paper._chosen(boxed)) == want
    assert lcjax.select_sites(boxed, last=1) == lcjax.select_sites(params, last=1)
