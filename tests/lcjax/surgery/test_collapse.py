import copy

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from hypothesis import given, settings
from hypothesis import strategies as st

import lcjax
from lcjax import (
    CollapseError,
    CollapsibleActivation,
    CollapsibleMLP,
    Exact,
    Skip,
    abstract_collapse,
    collapse,
)
from lcjax.nn.mlp import NORM_EPSILON
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import random_chain, with_slopes

D_IN = 6
DTYPES = {"float32": np.float32, "bfloat16": jnp.bfloat16.dtype, "float64": np.float64}


def forward(variables, x, last):
    """The chain in NumPy float64, activations the identity: an independent implementation."""
    params, stats = variables["params"], variables.get("batch_stats", {})
    wide = lambda array: np.asarray(array, np.float64)
    for i in range(last + 1):
        if (dense := params.get(f"dense_{i}")) is None:
            continue
        x = x @ wide(dense["kernel"]) + wide(dense.get("bias", 0))
        if norm := params.get(f"norm_{i}"):
            mean, var = wide(stats[f"norm_{i}"]["mean"]), wide(stats[f"norm_{i}"]["var"])
            x = (x - mean) / np.sqrt(var + NORM_EPSILON) * wide(norm["scale"]) + wide(norm["bias"])
    return x


@settings(max_examples=40, deadline=None)
@given(
    features=st.lists(st.integers(2, 12), min_size=2, max_size=5),
    bias=st.booleans(),
    norm=st.sampled_from([None, "batch"]),
    dtype=st.sampled_from(list(DTYPES)),
    numbers=st.randoms(use_true_random=False),
)
def test_collapse_at_slope_1_is_exact_in_any_order(features, bias, norm, dtype, numbers):
    _, variables = random_chain(features, D_IN, bias=bias, norm=norm, dtype=DTYPES[dtype])
    last = len(features) - 1
    sites = [f"act_{i}" for i in range(last)]
    chosen = numbers.sample(sites, numbers.randint(1, len(sites)))
    before = copy.deepcopy(variables)
    at_once, report = collapse(variables, chosen)
    one_by_one = variables
    for site in chosen:
        one_by_one, _ = collapse(one_by_one, site)
    chex.assert_trees_all_equal(variables, before)
    assert set(report.collapsed) == set(chosen)
    x = np.random.default_rng(1).normal(size=(3, D_IN))
    want = forward(variables, x, last)
    scale = 30 if norm else 1  # a norm may blow up a hidden value before it cancels
    for compact in (at_once, one_by_one):
        assert not any(site in compact["params"] for site in chosen)
        assert all(site in compact["params"] for site in set(sites) - set(chosen))
        got = forward(compact, x, last)
        assert_close(got, want, dtype=DTYPES[dtype], terms=scale**2 * sum(features))


@pytest.mark.promotes
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_module_runs_deep_and_compact_params_alike(depth, norm, dtype):
    features = (12, 9, 11, 8, 7)[:depth]
    model, variables = random_chain(features, D_IN, norm=norm, dtype=DTYPES[dtype])
    x = np.random.default_rng(1).normal(size=(3, D_IN)).astype(DTYPES[dtype])
    compact, _ = collapse(variables)
    model = model.clone(dtype=DTYPES[dtype])
    got, want = (jax.jit(model.apply)(tree, x) for tree in (compact, variables))
    assert_close(got, want, dtype=DTYPES[dtype], terms=300)


@pytest.mark.slow
def test_module_runs_deep_and_compact_params_alike_in_float64():
    with jax.enable_x64(True):
        model, variables = random_chain((9, 8, 5), D_IN, norm="batch", dtype=np.float64)
        variables = jax.tree.map(jnp.asarray, variables)
        compact, _ = collapse(variables)
        assert compact["params"]["dense_2"]["kernel"].dtype == jnp.float64
        x = np.random.default_rng(1).normal(size=(3, D_IN))
        model = model.clone(param_dtype=jnp.float64)
        got, want = model.apply(compact, x), model.apply(variables, x)
        assert_close(got, want, dtype=np.float64, terms=300)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_collapse_keeps_jax_arrays_and_dtypes(dtype):
    """As precisely as NumPy does in float64, but for the one rounding at the end."""
    _, variables = random_chain((24, 16), D_IN, norm="batch", dtype=np.dtype(dtype))
    compact, _ = collapse(jax.tree.map(jnp.asarray, variables))
    want, _ = collapse(variables)
    for name in ("kernel", "bias"):
        got = compact["params"]["dense_1"][name]
        assert isinstance(got, jax.Array) and got.dtype == dtype
        exact = np.asarray(want["params"]["dense_1"][name], np.float64)
        assert_close(got, exact, dtype=dtype, terms=24)


def test_collapse_folds_norms_with_their_epsilon():
    """Where a unit hardly varies, ε is most of what it is divided by."""
    model, variables = random_chain((8, 5), D_IN, norm="batch")
    stats = variables["batch_stats"]["norm_0"]
    stats["var"] = np.full(8, 1e-6, np.float32)
    compact, _ = collapse(variables)
    x = np.random.default_rng(1).normal(size=(3, D_IN)).astype(np.float32)
    got, want = model.apply(compact, x), model.apply(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3 * float(np.abs(want).max()))


def test_collapse_accepts_params_frozen_and_variables():
    _, variables = random_chain((8, 5), D_IN)
    whole, _ = collapse(variables)
    alone, _ = collapse(variables["params"])
    frozen, _ = collapse(freeze(variables))
    assert isinstance(frozen, FrozenDict) and not isinstance(whole, FrozenDict)
    chex.assert_trees_all_equal(whole["params"], alone, frozen.unfreeze()["params"])


def test_collapse_keeps_other_collections():
    _, variables = random_chain((8, 5), D_IN, norm="batch")
    extra = {"cache": {"seen": np.arange(3)}}
    compact, _ = collapse(variables | extra)
    assert compact["cache"]["seen"] is extra["cache"]["seen"]
    assert "batch_stats" not in compact


def test_collapse_shares_untouched_leaves_and_reports_others():
    _, one = random_chain((8, 5), D_IN)
    _, two = random_chain((8, 5), 5, seed=1)
    variables = {"params": {"a": one["params"], "b": two["params"]}}
    compact, report = collapse(variables, "a/*")
    assert compact["params"]["b"]["dense_0"]["kernel"] is two["params"]["dense_0"]["kernel"]
    assert report.new_leaves == ("a/dense_1/bias", "a/dense_1/kernel")
    assert set(report.removed_leaves) == {"a/act_0/slope", "a/dense_0/bias", "a/dense_0/kernel"}
    assert report.skipped == (Skip("b/act_0", "not_chosen"),)
    assert report.parameters_before == 6 * 8 + 8 + 8 * 5 + 5 + 5 * 8 + 8 + 8 * 5 + 5
    assert report.parameters_after == 6 * 5 + 5 + 5 * 8 + 8 + 8 * 5 + 5
    assert (report.flops_before, report.flops_after) == (2 * (48 + 40), 2 * 30)


def test_collapse_keeps_cheapest_factors():
    model, variables = random_chain((32, 2, 32, 40), 40)
    compact, report = collapse(variables)
    shapes = {name: child["kernel"].shape for name, child in compact["params"].items()}
    assert shapes == {"dense_1": (40, 2), "dense_3": (2, 40)}
    assert report.factored == ("act_1",)
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    assert_close(model.apply(compact, x), model.apply(variables, x), dtype=np.float32, terms=10_000)


def test_collapse_joins_factors_of_an_earlier_collapse():
    _, variables = random_chain((32, 2, 32, 40), 40)
    first, _ = collapse(variables, "act_1")
    assert {"dense_1", "dense_2"} <= set(first["params"])
    both, _ = collapse(first, ["act_0", "act_2"])
    at_once, _ = collapse(variables)
    shapes = lambda tree: jax.tree.map(np.shape, tree)
    assert shapes(both) == shapes(at_once)


def test_collapse_takes_sites_within_max_gap():
    _, variables = random_chain((8, 8, 8, 5), D_IN)
    slopes = {"act_0": 1.0, "act_1": 0.96, "act_2": 0.9}
    variables = with_slopes(variables, slopes)
    compact, report = collapse(variables)
    assert report.collapsed == ("act_0", "act_1")
    assert report.skipped == (Skip("act_2", "gap", "0.1000 over 0.05"),)
    np.testing.assert_allclose(report.gaps["act_1"], 0.04, atol=1e-6)
    _, exact = collapse(variables, fit=Exact(max_gap=0.0))
    assert exact.collapsed == ("act_0",)
    _, every = collapse(variables, "act_*", Exact(max_gap=float("inf")))
    assert len(every.collapsed) == 3
    text = str(report)
    assert "act_0" in text and "one matrix" in text and "stays: gap 0.1000 over 0.05" in text


def test_collapse_of_no_site_changes_nothing():
    _, variables = random_chain((8, 5), D_IN)
    variables = with_slopes(variables, 0.0)
    compact, report = collapse(variables)
    chex.assert_trees_all_equal(compact, variables)
    assert report.collapsed == () and report.new_leaves == ()


def test_collapse_under_jit_needs_sites():
    _, variables = random_chain((8, 5), D_IN)
    variables = jax.tree.map(jnp.asarray, variables)
    compact, report = jax.jit(lambda tree: collapse(tree, ["act_0"]))(variables)
    eager, _ = collapse(variables)
    chex.assert_trees_all_close(compact, eager, rtol=1e-6)
    assert report.collapsed == ("act_0",) and float(report.gaps["act_0"]) == 0
    with pytest.raises(CollapseError, match="sites must be given where slopes are abstract"):
        jax.jit(lambda tree: collapse(tree)[0])(variables)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_abstract_collapse_has_the_shapes_of_collapse(norm):
    _, variables = random_chain((8, 7, 5), D_IN, norm=norm)
    abstract, report = abstract_collapse(variables, "act_*")
    compact, real = collapse(variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        abstract, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), compact)
    )
    assert report.new_leaves == real.new_leaves and report.parameters_after == real.parameters_after


def edited(variables, path, value):
    *parents, name = path.split("/")
    tree = copy.deepcopy(variables)
    node = tree["params"]
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[name]
    else:
        node[name] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "sites", "message"),
    [
        ("dense_0", None, None, "act_0: expected dense_0 with it: the tree is half collapsed"),
        ("dense_2", None, None, "act_1: expected a later dense_i"),
        ("dense_1/kernel", np.ones((9, 7)), None, r"dense_1: kernel \(9, 7\) does not compose"),
        ("act_0/slope", np.float32(np.nan), None, "act_0: the slope is nan, not a finite"),
        ("act_0/slope", np.float32(np.inf), "act_0", "act_0: the slope is nan, not a finite"),
        (
            "act_0/slope",
            np.float32(0.5),
            "act_0",
            r"act_0: gap is 0.5 \(slope 0.5\), over max_gap 0.05",
        ),
        ("act_0/slope", np.ones(3, np.float32), None, r"slope of shape \(3,\), expected \(\)"),
        ("act_0/slope", np.float32(1), "act_7", "'act_7' matches no site. The sites are: act_0"),
        ("act_0/slope", np.float32(1), [], "sites is empty"),
    ],
)
def test_collapse_rejects_bad_trees_and_sites(path, value, sites, message):
    _, variables = random_chain((8, 7, 5), D_IN)
    variables = edited(variables, path, value)
    before = copy.deepcopy(variables)
    with pytest.raises(CollapseError, match=message):
        collapse(variables, sites)
    chex.assert_trees_all_equal(variables, before)


def test_collapse_rejects_bad_arguments():
    _, variables = random_chain((8, 5), D_IN)
    for max_gap in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="max_gap is .*; expected a number of at least 0"):
            collapse(variables, fit=Exact(max_gap=max_gap))
    with pytest.raises(CollapseError, match="no sites: the tree has no leaf named `slope`"):
        collapse({"params": {"dense_0": {"kernel": np.ones((2, 2))}}})
    with pytest.raises(TypeError, match="collapse takes nested dicts .* got list"):
        collapse([variables])
    _, normed = random_chain((8, 5), D_IN, norm="batch")
    with pytest.raises(CollapseError, match="norm_0: its running statistics are not in the tree"):
        collapse(normed["params"])


def test_collapse_skips_unpaired_sites():
    alone = {"params": {"act": {"slope": np.float32(1)}}}
    with pytest.raises(CollapseError, match="act: unpaired: it is in no chain"):
        collapse(alone, "act")
    _, report = collapse(alone)
    assert report.skipped == (Skip("act", "unpaired"),)


def test_collapse_of_stacked_layers_needs_all_linear():
    kernels = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    slopes = np.array([1, 1, 0.98], np.float32)
    tree = {
        "dense_0": {"kernel": kernels[0]},
        "act_0": {"slope": slopes},
        "dense_1": {"kernel": kernels[1]},
    }
    compact, report = collapse(tree)
    np.testing.assert_allclose(compact["dense_1"]["kernel"], kernels[0] @ kernels[1], atol=1e-5)
    np.testing.assert_allclose(report.gaps["act_0"], [0, 0, 0.02], atol=1e-6)
    _, report = collapse(tree, fit=Exact(max_gap=0.01))
    assert report.collapsed == ()


def test_find_sites_traces_forward_order():
    class Backwards(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = CollapsibleMLP((8, 6), nn.relu, name="z")(x)
            x = nn.remat(CollapsibleMLP)((8, 6), nn.relu, name="a")(x)
            return CollapsibleActivation(nn.relu, name="m")(x)

    x = jnp.ones((2, 6))
    variables = Backwards().init(jax.random.key(0), x)
    assert lcjax.find_sites(variables).paths == ("a/act_0", "m", "z/act_0")
    traced = lcjax.find_sites(variables, apply_fn=Backwards().apply, inputs=(x,))
    assert traced.paths == ("z/act_0", "a/act_0", "m")


def test_collapse_rejects_ambiguous_stacked_layers():
    kernel, slope = np.ones((2, 2, 2)), {"slope": np.ones(2, np.float32)}
    tree = {"dense_0": {"kernel": kernel}, "act_0": slope, "dense_1": {"kernel": kernel}}
    with pytest.raises(CollapseError, match=r"dense_0: got kernels \(2, 2, 2\) of stacked layers"):
        collapse(tree)


class Shared(nn.Module):
    """A module with Denses of its own, of a chain's names, in the chain's scope."""

    def setup(self):
        self.mlp = CollapsibleMLP((9, 6), nn.relu)
        nn.share_scope(self, self.mlp)
        self.after = nn.Dense(4, name="dense_2")
        self.before = nn.Dense(5, name="dense_7")

    def __call__(self, x):
        return self.after(nn.relu(self.mlp(nn.relu(self.before(x)))))


@pytest.mark.slow
def test_collapse_leaves_other_layers_of_a_shared_scope():
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    variables = with_slopes(Shared().init(jax.random.key(0), x), 1.0)
    compact, report = collapse(variables)
    assert report.collapsed == ("act_0",)
    for name in ("dense_2", "dense_7"):
        assert compact["params"][name]["kernel"] is variables["params"][name]["kernel"]
    got, want = (Shared().apply(tree, x) for tree in (compact, variables))
    np.testing.assert_allclose(got, want, atol=1e-5)
