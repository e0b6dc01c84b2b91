import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax import (
    CollapseError,
    CollapsibleActivation,
    CollapsibleGLU,
    CollapsibleMLP,
    Exact,
    collapse,
    collapsible,
    find_sites,
    tabulate,
)
from tests.helpers.trees import random_chain, with_slopes


class Net(nn.Module):
    """Eleven chains, one gated unit, and an activation that stands in no chain."""

    @nn.compact
    def __call__(self, x):
        for i in range(11):
            x = CollapsibleMLP((4, 5, 3), nn.relu, name=f"block_{i}")(x)
        x = CollapsibleGLU(16, 3, name="gated")(x)
        return CollapsibleActivation(nn.relu, name="output")(x)


@pytest.fixture(scope="module")
def abstract():
    return jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((2, 3)))


def test_find_sites_returns_forward_order(abstract):
    want = [f"block_{i}/act_{j}" for i in range(11) for j in range(2)]
    assert find_sites(abstract).paths == (*want, "gated/act", "output")
    assert find_sites(abstract["params"]).paths == find_sites(abstract).paths


def test_site_counts_savings():
    _, variables = random_chain((8, 7, 5), 6, norm="batch")
    variables = with_slopes(variables, {"act_0": 0.25})
    site, _ = find_sites(variables)
    assert (site.path, site.slope, site.gap) == ("act_0", 0.25, 0.75)
    assert (site.d_in, site.d_hidden, site.d_out) == (6, 8, 7)
    assert site.parameters_before == (6 * 8 + 8) + 2 * 8 + (8 * 7 + 7)
    assert (site.flops_before, site.flops_after) == (2 * (48 + 56), 2 * 42)
    assert site.fusing_saves and site.paired and site.layers == 1
    compact, report = collapse(with_slopes(variables, 1.0), "act_0")
    saved = site.parameters_before - site.parameters_after
    assert report.parameters_before - report.parameters_after == saved


@pytest.mark.parametrize("bias", [True, False])
def test_site_that_would_grow_saves_nothing(bias):
    _, variables = random_chain((2, 9), 9, bias=bias)
    (site,) = find_sites(variables)
    assert not site.fusing_saves and "grows" in str(find_sites(variables))
    assert site.flops_before == site.flops_after == 2 * (18 + 18)
    _, report = collapse(variables)
    assert report.parameters_after == site.parameters_after == site.parameters_before


def test_site_of_gated_unit_saves_its_gate():
    model = CollapsibleGLU(9, 5)
    variables = with_slopes(model.init(jax.random.key(0), jnp.ones((1, 6))), 1.0)
    (site,) = find_sites(variables)
    assert site.flops_before == 2 * (2 * 6 * 9 + 9 * 5) and site.flops_after == 2 * 6 * 5
    _, report = collapse(variables)
    assert (report.parameters_before, report.parameters_after) == (
        site.parameters_before,
        site.parameters_after,
    )


def test_sites_table_shows_every_site_and_remedies(abstract):
    text = str(find_sites(abstract))
    for word in ("block_10/act_1", "d_hidden", "pays", "unpaired", "lcjax.CollapsibleMLP"):
        assert word in text
    assert "?" in text  # abstract slopes
    assert "0.2500" in str(find_sites(with_slopes(random_chain((8, 5), 6)[1], 0.25)))


def test_site_of_stacked_layers_shows_worst_slope():
    kernel = np.ones((3, 4, 4), np.float32)
    tree = {
        "dense_0": {"kernel": kernel},
        "act_0": {"slope": np.array([1, 0.5, 0.9], np.float32)},
        "dense_1": {"kernel": kernel},
    }
    (site,) = find_sites(tree)
    assert (site.slope, site.layers, site.parameters_before) == (0.5, 3, 96)
    assert "×3" in str(find_sites(tree))


def test_find_sites_accepts_boxed_frozen_and_abstract_trees():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            names = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
            return CollapsibleMLP((8, 5), kernel_init=names, name="mlp")(x)

    boxed = Boxed().init(jax.random.key(0), jnp.ones((1, 6)))
    (want,) = find_sites(nn.unbox(boxed))
    assert (want.d_in, want.d_hidden, want.d_out, want.slope) == (6, 8, 5, 0.0)
    assert find_sites(boxed) == find_sites(freeze(boxed)) == (want,)
    (abstract,) = find_sites(jax.eval_shape(lambda: boxed))
    assert abstract.slope is abstract.gap is None
    assert abstract.parameters_after == want.parameters_after


def test_find_sites_of_no_site_and_of_half_a_tree():
    assert len(find_sites({"dense_0": {"kernel": np.ones((2, 2))}})) == 0
    _, variables = random_chain((8, 5), 6)
    del variables["params"]["dense_1"]
    with pytest.raises(CollapseError, match="act_0: expected a later dense_i"):
        find_sites(variables)


def test_tabulate_shows_the_form_of_the_params():
    model, variables = random_chain((8, 5), 6)
    x = jax.ShapeDtypeStruct((2, 6), jnp.float32)
    deep = tabulate(model.apply, variables, (x,))
    assert "act_0" in deep and "float32[2,8]" in deep and f"{6 * 8 + 8 + 8 * 5 + 5 + 1}" in deep
    compact = tabulate(model.apply, collapse(variables)[0], (x,))
    assert "act_0" not in compact and "dense_0" not in compact
    assert "kernel float32[6,5]" in compact and compact.splitlines()[-1].endswith(" 35")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=6), st.data())
def test_fusing_saves_means_fewer_parameters(widths, data):
    params, stats = {}, {}
    for i, (d_in, d_out) in enumerate(itertools.pairwise(widths)):
        params[f"dense_{i}"] = {"kernel": np.ones((d_in, d_out), np.float32)}
        if data.draw(st.booleans()):
            params[f"dense_{i}"]["bias"] = np.ones(d_out, np.float32)
        if i < len(widths) - 2:
            params[f"act_{i}"] = {"slope": np.float32(1)}
            if norm := data.draw(st.sampled_from(["", "scale", "bias", "scale bias"])):
                ones = np.ones(d_out, np.float32)
                params[f"norm_{i}"] = dict.fromkeys(norm.split(), ones)
                stats[f"norm_{i}"] = {"mean": ones, "var": ones}
    variables = {"params": params, "batch_stats": stats}
    paying = []
    for site in find_sites(variables):
        _, report = collapse(variables, site.path)
        assert report.parameters_after - report.parameters_before == (
            site.parameters_after - site.parameters_before
        )
        fewer = report.parameters_after < report.parameters_before
        assert site.fusing_saves == (site.path not in report.factored and fewer)
        paying += [site.path] if site.fusing_saves else []
    if paying:
        _, report = collapse(variables, paying)
        assert report.parameters_after < report.parameters_before


@pytest.mark.parametrize("front_end", ["tree", "function"])
def test_fusing_saves_counts_biases(front_end):
    kernels = np.ones((3, 2), np.float32), np.ones((2, 5), np.float32)
    first = {"kernel": kernels[0], "bias": np.ones(2, np.float32)}  # 16 weights, or 15 and 5
    if front_end == "tree":
        tree = {"dense_0": first, "act_0": {"slope": np.float32(1)}}
        tree["dense_1"] = {"kernel": kernels[1]}
        (site,), (_, report) = find_sites(tree), collapse(tree)
    else:
        f = collapsible(lambda p, x: nn.relu(x @ p["a"] + p["b"]) @ p["c"])
        params = {"a": kernels[0], "b": first["bias"], "c": kernels[1]}
        tree = f.init(params, np.ones((1, 3), np.float32))
        call = f.trace(tree, np.ones((1, 3), np.float32))
        (site,), (_, report) = call.sites, call.collapse(fit=Exact(max_gap=1))
    assert not site.fusing_saves
    assert report.parameters_after == site.parameters_after == site.parameters_before == 18
