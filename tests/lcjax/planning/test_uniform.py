"""The same share of units at every site: the largest within budgets, chains and gates included."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapsibleGLU,
    CollapsibleMLP,
    Count,
    Flops,
    LowRank,
    Params,
    collapse_sequential,
    count_parameters,
    plan_fits,
)
from lcjax.planning.measuring.uniform import uniform_ranks, uniform_units
from lcjax.structure.params_tree import ParamsTree

X = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
CHAIN = CollapsibleMLP((32, 32, 16, 3), nn.relu)
GATED = CollapsibleGLU(64, 6, nn.silu)


def init(model):
    return jax.jit(model.init)(jax.random.key(0), X[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "budget"), [(CHAIN, 700), (CHAIN, 0.5), (GATED, 700)])
def test_share_is_the_largest_within_the_budget(model, budget):
    variables = init(model)
    tree, limit = ParamsTree(variables), Params(budget)
    most = budget if budget > 1 else budget * count_parameters(variables)
    fits = uniform_units(tree, tree.sites.paths, [limit], 1)
    shares = {path: fit.count / tree.segments([path])[0].widths[1] for path, fit in fits.items()}
    assert max(shares.values()) - min(shares.values()) < 1 / 16  # of the narrowest, one unit

    def size(more):
        each = {path: type(fit)(fit.count + more) for path, fit in fits.items()}
        data = CalibrationData([X], progress=False)
        compact, _ = collapse_sequential(model.apply, variables, data, fit=each)
        return count_parameters(compact)

    assert size(0) <= most < size(2)


def test_units_fewer_than_the_multiple_have_no_share():
    tree = ParamsTree(init(CHAIN))
    assert uniform_units(tree, tree.sites.paths, [Params(0.5)], 64) == {}


@pytest.mark.parametrize(("model", "budget"), [(CHAIN, 0.6), (GATED, 700)])
def test_rank_is_the_largest_within_the_budget(model, budget):
    variables = init(model)
    tree, limit = ParamsTree(variables), Params(budget)
    most = budget if budget > 1 else budget * count_parameters(variables)
    (fit,) = set(uniform_ranks(tree, tree.sites.paths, [limit], 1).values())

    def size(rank):
        data = CalibrationData([X], progress=False)
        compact, _ = collapse_sequential(model.apply, variables, data, fit=LowRank(rank))
        return count_parameters(compact)

    biases = 6 if model is GATED else 0  # of the last kernel, which had none
    assert size(fit.rank) - biases <= most < size(fit.rank + 1)
    assert uniform_ranks(tree, tree.sites.paths, [Params(10)], 1) == {}


def test_multiples_and_other_budgets():
    tree = ParamsTree(init(CHAIN))
    paths = tree.sites.paths
    fits = uniform_units(tree, paths, [Flops(0.5)], 8)
    assert {fit.count % 8 for fit in fits.values()} == {0}
    assert uniform_units(tree, paths, [Count(2)], 8) == {}
    assert uniform_units(tree, paths, [Params(10)], 8) == {}
    assert uniform_units(tree, paths, [Params(10**6)], 8) == {}


@pytest.mark.slow
def test_a_plan_is_no_worse_than_the_same_share_everywhere():
    """A chain, whose sites share layers, so that drops do not add up."""
    variables = jax.tree.map(lambda leaf: 2 * leaf, init(CHAIN))
    data = CalibrationData([X], holdout=0.3, progress=False)
    found = plan_fits(CHAIN.apply, variables, data, budget=Params(0.6), tolerance=0)
    tree = ParamsTree(variables)
    uniform = found.table.choice_of(uniform_units(tree, tree.sites.paths, [Params(0.6)], 8))
    tried = {each.choice: each.measured.drop for each in found.rounds}
    assert found.measured.drop <= tried[uniform]
