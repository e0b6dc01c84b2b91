"""Unstacked layers run in a plain loop as the stack did, and only some may be collapsed."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from jax.sharding import AxisType, NamedSharding

from lcjax import CollapseError, CollapsibleMLP, collapse, find_sites, unstack_layers
from tests.helpers.trees import with_slopes

LAYERS, WIDTH = 3, 6
X = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
pytestmark = pytest.mark.usefixtures("strict_promotion")


class Block(nn.Module):
    boxed: bool = False

    @nn.compact
    def __call__(self, x, _=None):
        init = nn.initializers.lecun_normal()
        if self.boxed:
            init = nn.with_partitioning(init, ("in", "out"))
        seen = self.variable("batch_stats", "seen", jnp.ones, (1, WIDTH))
        return x + CollapsibleMLP((8, WIDTH), kernel_init=init, name="mlp")(x) * seen.value, None


class Stacked(nn.Module):
    boxed: bool = False

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            Block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return nn.Dense(2, name="head")(stack(self.boxed, name="layers")(x, None)[0])


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(LAYERS):
            x, _ = Block(name=f"layers_{i}")(x)
        return nn.Dense(2, name="head")(x)


@pytest.fixture(scope="module")
def stacked():
    return Stacked().init(jax.random.key(0), X)


@pytest.mark.slow
def test_unstack_layers_runs_in_a_plain_loop(stacked):
    single = unstack_layers(stacked, "layers")
    want = jax.eval_shape(Loop().init, jax.random.key(0), X)
    chex.assert_trees_all_equal_shapes_and_dtypes(single, want)
    np.testing.assert_allclose(Loop().apply(single, X), Stacked().apply(stacked, X), rtol=1e-5)
    assert single["params"]["head"]["kernel"] is stacked["params"]["head"]["kernel"]
    assert set(stacked["params"]) == {"layers", "head"}


@pytest.mark.slow
def test_unstack_layers_allows_collapse_of_some_layers(stacked):
    single = unstack_layers(stacked, "layers")
    paths = tuple(f"layers_{i}/mlp/act_0" for i in range(LAYERS))
    assert find_sites(single).paths == paths
    single = with_slopes(single, {paths[1]: 1.0})
    compact, report = collapse(single)
    assert report.collapsed == (paths[1],)
    got, want = Loop().apply(compact, X), Loop().apply(single, X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_unstack_layers_removes_axis_names_of_boxes():
    boxed = Stacked(boxed=True).init(jax.random.key(0), X)
    kernel = boxed["params"]["layers"]["mlp"]["dense_0"]["kernel"]
    assert kernel.names == ("layers", "in", "out")
    single = unstack_layers(boxed, "layers")["params"]["layers_2"]["mlp"]["dense_0"]["kernel"]
    assert single.names == ("in", "out")
    np.testing.assert_array_equal(single.value, kernel.value[2])


def test_unstack_layers_accepts_every_kind_of_tree(stacked):
    want = unstack_layers(stacked, "layers")
    chex.assert_trees_all_equal(unstack_layers(stacked["params"], "layers"), want["params"])
    frozen = unstack_layers(freeze(stacked), "layers")
    assert isinstance(frozen, FrozenDict)
    chex.assert_trees_all_equal(frozen.unfreeze(), want)
    traced = jax.jit(lambda tree: unstack_layers(tree, "layers"))(stacked)
    chex.assert_trees_all_equal(traced, want)
    abstract = unstack_layers(jax.eval_shape(lambda: stacked), "layers")
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, want)
    nested = unstack_layers({"params": {"encoder": stacked["params"]}}, "encoder/layers", name="b")
    assert set(nested["params"]["encoder"]) == {"b_0", "b_1", "b_2", "head"}
    stack = {"slope": np.arange(2.0), "kernel": np.ones((2, 3))}
    host = unstack_layers({"layers": stack}, "layers")
    assert isinstance(host["layers_1"]["slope"], np.ndarray)


def test_unstack_layers_removes_the_axis_from_shardings():
    mesh = jax.make_mesh((1, 1), ("stage", "tensor"), axis_types=(AxisType.Auto,) * 2)
    stack = NamedSharding(mesh, jax.P("stage", None, "tensor"))
    leaf = jax.ShapeDtypeStruct((2, 3, 4), np.float32, sharding=stack)
    single = unstack_layers({"layers": {"kernel": leaf}}, "layers")["layers_0"]["kernel"]
    assert single.shape == (3, 4) and single.sharding.spec == jax.P(None, "tensor")


@pytest.mark.parametrize(
    ("tree", "path", "message"),
    [
        ({"a": {"layer": {"k": np.ones(2)}}}, "a/layers", "'a/layers' names no .* a has layer"),
        ({"layers": np.ones(2)}, "layers", "'layers' names no .* params has layers"),
        ({"layers": {}}, "layers", "'layers' names no module of stacked layers"),
        ({"s": {"k": np.ones((2, 3)), "b": np.ones(3)}}, "s", "s/k: 2 layers .* params/s/b has 3"),
        ({"s": {"k": np.ones(2), "slope": np.float32(1)}}, "s", r"s/slope: shape \(\) has no"),
        ({"s": {"k": np.ones(2)}, "s_1": {}}, "s", "s: the name s_1 of a single layer exists"),
    ],
)
def test_unstack_layers_rejects_bad_trees(tree, path, message):
    for variables in (tree, {"params": tree}):
        with pytest.raises(CollapseError, match=message):
            unstack_layers(variables, path)


def test_unstack_layers_rejects_uneven_collections(stacked):
    stats = {"layers": {"seen": np.ones((2, 1, WIDTH))}}
    with pytest.raises(CollapseError, match="batch_stats/layers/seen: 2 layers .* has 3"):
        unstack_layers({**stacked, "batch_stats": stats}, "layers")
    with pytest.raises(TypeError, match="nested dicts .* got list"):
        unstack_layers([stacked], "layers")


@pytest.mark.parametrize("axis", [0, -1, 1])
def test_unstack_layers_along_a_given_axis(axis):
    layers = [{"kernel": np.full((2, 3), i), "bias": np.full(3, i)} for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis), *layers)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stacked)
    unstacked = unstack_layers({"layers": stacked}, "layers", axis=axis)
    abstract = unstack_layers({"layers": shapes}, "layers", axis=axis)
    for i, layer in enumerate(layers):
        chex.assert_trees_all_equal(unstacked[f"layers_{i}"], layer)
        assert abstract[f"layers_{i}"]["kernel"].shape == (2, 3)


def test_unstack_layers_along_a_given_axis_of_boxes():
    box = nn.Partitioned(np.ones((3, 4, 2)), names=("in", "out", "layer"))
    unstacked = unstack_layers({"layers": {"kernel": box}}, "layers", axis=-1)
    assert unstacked["layers_1"]["kernel"].names == ("in", "out")
    assert unstacked["layers_1"]["kernel"].value.shape == (3, 4)


def test_unstack_layers_rejects_ambiguous_axes():
    stacked = {"layers": {"kernel": np.ones((2, 2, 2)), "slope": np.ones(2)}}
    with pytest.raises(CollapseError, match="either may count the layers. Give axis=0 or"):
        unstack_layers(stacked, "layers")
    assert set(unstack_layers(stacked, "layers", axis=0)) == {"layers_0", "layers_1"}
    with pytest.raises(CollapseError, match=r"slope: shape \(2,\) has no axis 1"):
        unstack_layers(stacked, "layers", axis=1)
