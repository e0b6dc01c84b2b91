"""Folding of single linear units: exactness, sizes, and which are not folded."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lcjax
from lcjax import CollapsibleGLU, CollapsibleMLP, Exact, collapse, find_sites
from lcjax.errors import CollapseError

WIDTH, HIDDEN, OUT = 5, 24, 4


def random_like(tree, seed=0):
    """Returns a tree of random values; slopes stay."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    new = [
        jax.random.uniform(k, x.shape, x.dtype, 0.2, 1) for k, x in zip(keys, leaves, strict=True)
    ]
    return lcjax.map_slopes(lambda _, old: old, jax.tree.unflatten(structure, new), tree)


def variables_of(module, linear, x, site="act_0"):
    """Returns random variables in which these units of a site are linear, the others not."""
    variables = random_like(jax.jit(module.init)(jax.random.key(0), x))
    width = lcjax.slopes(variables)[site].shape[-1]
    slope = jnp.linspace(-0.3, 0.6, width).at[jnp.asarray(linear)].set(1)
    act = {**variables["params"][site], "slope": slope}
    return {**variables, "params": {**variables["params"], site: act}}


MODULES = {
    "mlp": CollapsibleMLP((HIDDEN, OUT), nn.gelu, slope_per="unit"),
    "mlp without biases": CollapsibleMLP((HIDDEN, OUT), nn.gelu, use_bias=False, slope_per="unit"),
    "mlp with norm": CollapsibleMLP((HIDDEN, OUT), nn.relu, norm="batch", slope_per="unit"),
    "glu": CollapsibleGLU(HIDDEN, OUT, slope_per="unit"),
    "glu with biases": CollapsibleGLU(HIDDEN, OUT, use_bias=True, slope_per="unit"),
}
SITES = {name: "act" if "glu" in name else "act_0" for name in MODULES}
X = jax.random.normal(jax.random.key(7), (3, 11, WIDTH))
LINEAR = np.r_[0:4, 9:20]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_units_at_slope_one_fold_without_loss(name):
    module, site = MODULES[name], SITES[name]
    variables = variables_of(module, LINEAR, X, site)
    compact, report = collapse(variables)
    np.testing.assert_allclose(
        module.apply(compact, X), module.apply(variables, X), rtol=1e-5, atol=1e-5
    )
    rest = np.setdiff1d(np.arange(HIDDEN), LINEAR)
    np.testing.assert_array_equal(report.units[site], rest)
    assert report.collapsed == () and report.skipped == ()
    assert lcjax.count_parameters(compact) == report.parameters_after < report.parameters_before
    slope = lcjax.slopes(compact)[site]
    np.testing.assert_array_equal(slope, lcjax.slopes(variables)[site][rest])
    bypass = compact["params"]["bypass" if site == "act" else "bypass_0"]
    assert bypass["kernel"].shape == (WIDTH, OUT) and bypass["bias"].shape == (OUT,)


@settings(max_examples=15, deadline=None)
@given(units=st.sets(st.integers(0, HIDDEN - 1), min_size=1), name=st.sampled_from(list(MODULES)))
@pytest.mark.slow
def test_any_units_fold_or_stay_with_the_same_function(units, name):
    module, site = MODULES[name], SITES[name]
    variables = variables_of(module, sorted(units), X, site)
    compact, report = collapse(variables)
    np.testing.assert_allclose(
        module.apply(compact, X), module.apply(variables, X), rtol=2e-5, atol=2e-5
    )
    before, after = map(lcjax.count_parameters, (variables, compact))
    assert after == report.parameters_after
    assert after < before or (after == before and [skip.site for skip in report.skipped] == [site])


@pytest.mark.slow
def test_too_few_linear_units_are_skipped_with_the_figures():
    module = MODULES["mlp"]
    variables = variables_of(module, [0, 1], X)
    for sites in (None, ["act_0"]):
        compact, report = collapse(variables, sites)
        (skip,) = report.skipped
        assert skip.reason == "few_linear_units" and compact["params"].keys() >= {"act_0"}
        assert str(skip) == "too few linear units (2 of 24 have 20 weights, a map for them 20)"
    assert str(find_sites(variables)).count("2 of 24 units linear") == 1


def test_a_rank_is_refused_where_units_fold():
    module, site = MODULES["mlp"], SITES["mlp"]
    variables = variables_of(module, LINEAR, X, site)
    with pytest.raises(CollapseError, match="act_0: got rank=2 for a site some of whose units"):
        collapse(variables, fit=Exact(rank=2))


@pytest.mark.slow
def test_the_map_is_paid_for_once():
    """Units that become linear later fold into the map that is there, though they are few."""
    module = MODULES["mlp"]
    first, _ = collapse(variables_of(module, LINEAR, X))
    slope = first["params"]["act_0"]["slope"].at[2].set(1)
    more = {"params": {**first["params"], "act_0": {"slope": slope}}}
    second, report = collapse(more)
    assert second["params"]["dense_0"]["kernel"].shape == (WIDTH, HIDDEN - len(LINEAR) - 1)
    np.testing.assert_allclose(module.apply(second, X), module.apply(more, X), rtol=1e-5)
    linear = {"params": {**second["params"], "act_0": {"slope": jnp.ones(8)}}}
    last, report = collapse(linear)
    assert report.collapsed == ("act_0",) and last["params"].keys() == {"dense_1"}
    np.testing.assert_allclose(module.apply(last, X), module.apply(linear, X), rtol=1e-5)


def test_all_units_linear_is_one_matrix_as_before():
    module = MODULES["mlp"]
    compact, report = collapse(variables_of(module, np.arange(HIDDEN), X))
    assert compact["params"].keys() == {"dense_1"} and report.collapsed == ("act_0",)
    assert report.gaps["act_0"].shape == (HIDDEN,)


def test_units_within_the_gap_fold_and_others_do_not():
    module = MODULES["mlp"]
    variables = variables_of(module, LINEAR, X)
    slope = variables["params"]["act_0"]["slope"].at[LINEAR].add(-0.01)
    variables["params"]["act_0"]["slope"] = slope
    _, report = collapse(variables)
    assert len(report.units["act_0"]) == HIDDEN - len(LINEAR)
    with pytest.raises(CollapseError, match=r"act_0: gap is 1.14.* over max_gap 0.001"):
        collapse(variables, ["act_0"], Exact(max_gap=1e-3))
    compact, report = collapse(variables, fit=Exact(max_gap=2))
    assert report.collapsed == ("act_0",)


def test_a_neighbour_that_is_linear_fuses_before_units_fold():
    module = CollapsibleMLP((HIDDEN, HIDDEN, OUT), nn.gelu, slope_per="unit")
    for whole, part in (("act_0", "act_1"), ("act_1", "act_0")):
        variables = variables_of(module, LINEAR, X, part)
        act = {"slope": jnp.ones(HIDDEN)}
        variables = {"params": {**variables["params"], whole: act}}
        compact, report = collapse(variables)
        assert report.collapsed == (whole,) and set(report.units) == {part}
        np.testing.assert_allclose(module.apply(compact, X), module.apply(variables, X), rtol=1e-5)
        old, new = ({*_paths(tree)} for tree in (variables, compact))
        assert {*report.removed_leaves} == old - new
        assert {*report.new_leaves} >= new - old
        assert report.parameters_after == lcjax.count_parameters(compact)
        kernels = [leaf for leaf in jax.tree.leaves(compact) if leaf.ndim == 2]
        assert report.flops_after == 2 * sum(kernel.size for kernel in kernels)
        assert report.flops_before == find_sites(variables)[0].flops_before + 2 * HIDDEN * OUT


def test_units_whose_input_a_bypass_adds_to_stay():
    """What they add would pass through two pairs at once."""
    module = CollapsibleMLP((HIDDEN, HIDDEN, OUT), nn.gelu, slope_per="unit")
    variables = variables_of(module, np.arange(4, HIDDEN), X, "act_0")
    slope = jnp.zeros(HIDDEN).at[4:].set(1)
    variables = {"params": {**variables["params"], "act_1": {"slope": slope}}}
    compact, report = collapse(variables)
    np.testing.assert_allclose(module.apply(compact, X), module.apply(variables, X), rtol=1e-5)
    assert len(report.units) + len(report.skipped) == 2
    assert all(skip.reason in ("bypassed", "few_linear_units") for skip in report.skipped)


@pytest.mark.slow
def test_bfloat16_folds_within_its_rounding():
    module = MODULES["mlp"].clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = variables_of(module, LINEAR, X.astype(jnp.bfloat16))
    compact, _ = collapse(variables)
    kernels = [leaf for leaf in jax.tree.leaves(compact) if leaf.ndim == 2]
    assert {kernel.dtype for kernel in kernels} == {jnp.dtype(jnp.bfloat16)}
    assert lcjax.slopes(compact)["act_0"].dtype == jnp.float32
    exact = module.clone(dtype=jnp.float32)
    got, want = (exact.apply(tree, X) for tree in (compact, variables))
    assert jnp.linalg.norm(got - want) < 2**-8 * jnp.linalg.norm(want)


def test_slopes_of_other_params_say_which_units_are_linear():
    module = MODULES["mlp"]
    raw = variables_of(module, LINEAR, X)
    average = lcjax.map_slopes(lambda s: jnp.where(s == 1, 0.9, s), raw)
    _, report = collapse(average)
    assert not report.units
    compact, report = collapse(average, slopes_from=raw)
    assert len(report.units["act_0"]) == HIDDEN - len(LINEAR)
    np.testing.assert_allclose(module.apply(compact, X), module.apply(raw, X), rtol=1e-5)


def test_stacked_layers_fold_whole_or_not_at_all():
    slopes = jnp.ones((2, HIDDEN)).at[1, 3].set(0)
    params = {
        "dense_0": {"kernel": jnp.ones((2, WIDTH, HIDDEN))},
        "act_0": {"slope": slopes},
        "dense_1": {"kernel": jnp.ones((2, HIDDEN, OUT))},
    }
    _, report = collapse(params)
    (skip,) = report.skipped
    assert skip.reason == "gap" and "47 are exactly linear" in skip.detail
    params["act_0"] = {"slope": jnp.ones((2, HIDDEN))}
    compact, report = collapse(params)
    assert compact["dense_1"]["kernel"].shape == (2, WIDTH, OUT)


def test_under_jit_named_sites_collapse_whole():
    module = MODULES["mlp"]
    variables = variables_of(module, LINEAR, X)
    compact, _ = jax.jit(lambda v: collapse(v, ["act_0"]))(variables)
    assert compact["params"].keys() == {"dense_1"}


def test_input_is_not_changed_and_untouched_leaves_are_shared():
    module = CollapsibleMLP((HIDDEN, 3, OUT), nn.gelu, slope_per="unit")
    variables = variables_of(module, LINEAR, X)
    copy = jax.tree.map(np.array, variables)
    compact, _ = collapse(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, copy)
    assert compact["params"]["dense_2"] is not variables["params"]["dense_2"]
    assert compact["params"]["dense_2"]["kernel"] is variables["params"]["dense_2"]["kernel"]


def _paths(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree["params"])
    return ["/".join(key.key for key in keys) for keys, _ in flat]
