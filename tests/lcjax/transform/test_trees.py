"""Params of any structure: collapsed, saved, restored elsewhere; and trees that are wrong."""

import os
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax import FusedKey, Skip
from tests.helpers.functions import CASES, CHAIN, PAIR, X, chain, close, pair, sloped


class Layer(NamedTuple):
    w: Any
    b: Any


def mlp(layers, x):
    for layer in layers[:-1]:
        w, b = layer
        x = nn.relu(x @ w + b)
    w, b = layers[-1]
    return x @ w + b


def haiku_like(p, x):
    first, second = p["mlp/~/linear_0"], p["mlp/~/linear_1"]
    return nn.relu(x @ first["w"] + first["b"]) @ second["w"] + second["b"]


def nnx_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(6, 16, rngs=rngs), nnx.gelu, nnx.Linear(16, 4, rngs=rngs))


def nnx_apply(state, x):
    return nnx.merge(nnx.graphdef(nnx.eval_shape(nnx_model)), state)(x)


LAYERS = [(PAIR["w1"], PAIR["b1"]), (PAIR["w2"], PAIR["b2"])]
TREES = {
    "dict": (pair(nn.relu), PAIR, False),
    "list of tuples": (mlp, LAYERS, False),
    "tuple of lists": (mlp, tuple(map(list, LAYERS)), False),
    "slashes in keys": (
        haiku_like,
        {f"mlp/~/linear_{i}": {"w": w, "b": b} for i, (w, b) in enumerate(LAYERS)},
        False,
    ),
    "odd keys": (
        lambda p, x: nn.relu(x @ p["a|b,c:d+e=f%"]["[0]"] + p["@x"]) @ p["w2"],
        {"a|b,c:d+e=f%": {"[0]": PAIR["w1"]}, "@x": PAIR["b1"], "w2": PAIR["w2"]},
        False,
    ),
    "linen": (CASES["two scans"].fn, CASES["two scans"].params, False),
    "FrozenDict": (lambda p, x: pair(nn.relu)(p, x), freeze(PAIR), False),
    "NamedTuples": (mlp, [Layer(*layer) for layer in LAYERS], True),
    "NNX state": (nnx_apply, nnx.state(nnx_model()), True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_saved_compact_tree_runs_again(name, tmp_path):
    fn, params, needs_like = TREES[name]
    f = lcjax.collapsible(fn)
    deep = f.init(params, X)
    compact, report = f.trace(sloped(deep, 1), X).collapse()
    close(f(compact, X), f(sloped(deep, 1), X))
    lcjax.save(tmp_path / "compact", compact)
    abstract = jax.eval_shape(lambda: f.init(params, X))
    like = f.trace(abstract, X).abstract_collapse(report.collapsed)[0]
    assert jax.tree.structure(like) == jax.tree.structure(compact)
    restored = [lcjax.restore(tmp_path / "compact", like=like)]
    restored += [] if needs_like else [lcjax.restore(tmp_path / "compact")]
    for tree in restored:
        fresh = lcjax.collapsible(fn)
        chex.assert_trees_all_equal(jax.jit(fresh)(tree, X), jax.jit(f)(compact, X))
        assert not fresh.trace(tree, X).sites


SCRIPT = """
import sys
import flax.linen as nn, jax, numpy as np
import lcjax

def apply(p, x):
    return nn.gelu(x @ p["up"]["kernel"] + p["up"]["bias"]) @ p["down"]["kernel"]

compact = lcjax.restore(sys.argv[1] + "/compact")
inputs = np.load(sys.argv[1] + "/x.npy")
np.save(sys.argv[1] + "/y.npy", jax.jit(lcjax.collapsible(apply))(compact, inputs))
"""


@pytest.mark.slow
def test_compact_tree_runs_in_fresh_process(tmp_path):
    source = textwrap.dedent(SCRIPT)
    space: dict[str, Any] = {}
    exec(source[source.index("def apply") : source.index("compact =")], {"nn": nn}, space)
    f = lcjax.collapsible(space["apply"])
    model = {
        "up": {"kernel": PAIR["w1"], "bias": PAIR["b1"]},
        "down": {"kernel": PAIR["w2"]},
    }
    compact, _ = f.trace(sloped(f.init(model, X), 1), X).collapse()
    lcjax.save(tmp_path / "compact", compact)
    np.save(tmp_path / "x.npy", X)
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), jax.jit(f)(compact, X))


def test_compact_tree_with_plain_orbax_and_jax_export(tmp_path):
    f = lcjax.collapsible(CASES["two scans"].fn)
    compact, _ = f.trace(sloped(f.init(CASES["two scans"].params, X), 1), X).collapse()
    ocp.save(tmp_path / "orbax", compact)
    abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    restored = ocp.load(tmp_path / "orbax", jax.tree.map(abstract, compact))
    chex.assert_trees_all_equal(restored["fused"], compact["fused"])
    close(f(restored, X), f(compact, X))
    exported = jax.export.export(jax.jit(f))(compact, X)
    close(exported.call(compact, X), f(compact, X))


def test_fused_key_round_trip():
    f = lcjax.collapsible(chain)
    compact, _ = f.trace(sloped(f.init(CHAIN, X), 1), X).collapse(["w1", "w3b"])
    assert list(compact["fused"]) == [
        'w1 {"form": ["linear"], "hidden": [16], '
        '"removed": {"b1": [16], "w1": [6, 16], "w2": [16, 8]}}',
        'w3b {"form": ["linear"], "hidden": [12], '
        '"removed": {"b2b": [12], "b3": [4], "w3": [12, 4], "w3b": [8, 12]}}',
    ]
    model = {"block": {"up": PAIR["w1"], "down": PAIR["w2"].astype(jnp.bfloat16)}}
    f = lcjax.collapsible(
        lambda p, x: nn.relu(x @ p["block"]["up"]) @ p["block"]["down"].astype(x.dtype)
    )
    compact, _ = f.trace(sloped(f.init(model, X), 1), X).collapse()
    assert list(compact["fused"]) == [
        'block/up {"form": ["linear"], "hidden": [16], "removed": {"block/down": [16, 4], '
        '"block/up": [6, 16]}, "dtypes": {"block/up": "float32"}}'
    ]


def test_collapse_shares_untouched_numpy_leaves():
    model = jax.tree.map(np.asarray, CHAIN)
    f = lcjax.collapsible(chain)
    before = jax.tree.map(np.copy, model)
    deep = sloped(f.init(model, X), 1)
    compact, report = f.trace(deep, X).collapse("w1")
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(compact["fused"]))
    assert compact["model"]["w3"] is model["w3"]
    assert set(report.removed_leaves) == {"model/w1", "model/b1", "model/w2", "slopes/w1/slope"}
    assert report.skipped == (Skip("w2", "not_chosen"), Skip("w3b", "not_chosen"))
    chex.assert_trees_all_equal(model, before)


def test_collapse_keeps_containers_that_paths_cannot_rebuild():
    def fn(p, x):
        first, second = p["net"]
        x = nn.relu(x @ first.w + first.b) @ second.w + second.b
        up, down, none = (p["head"][name, 0] for name in ("up", "down", "none"))
        return x + none if down["b"] is not None else nn.relu(x @ up["w"]) @ down["w"]

    w3, w4 = CHAIN["w3"].T, CHAIN["w3"]
    head = {("up", 0): {"w": w3}, ("down", 0): {"w": w4, "b": None}, ("none", 0): None}
    model = {"net": tuple(Layer(*layer) for layer in LAYERS), "head": head}
    f = lcjax.collapsible(fn)
    linear = sloped(f.init(model, X), 1)
    compact, report = f.trace(linear, X).collapse()
    assert len(report.collapsed) == 2 and compact["model"]["head"]["up", 0] == {"w": None}
    close(f(compact, X), f(linear, X))


def test_collapse_with_python_numbers_in_params():
    leaky = lambda p, x: pair(lambda z: jnp.where(z > 0, z, p["a"] * z))(p, x) * p["by"]
    model = PAIR | {"a": 0.1, "by": 2}
    f = lcjax.collapsible(leaky)
    params = f.init(model, X)
    chex.assert_trees_all_equal(f(params, X), leaky(model, X))
    compact, report = f.trace(sloped(params, 1), X).collapse()
    assert compact["model"] == {"a": 0.1, "by": 2} and report.parameters_before == 182
    assert f.trace(params, X).abstract_collapse("w1")[0]["model"] == compact["model"]
    close(jax.jit(f)(compact, X), 2 * pair(lambda z: z)(PAIR, X))


def test_collapse_keeps_boxes():
    boxed = lambda *names: nn.with_partitioning(nn.initializers.normal(0.3), names)

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.gelu(nn.Dense(16, kernel_init=boxed("embed", "mlp"), name="up")(x))
            return nn.Dense(4, kernel_init=boxed("mlp", "out"), name="down")(x)

    f = lcjax.collapsible(Boxed().apply)
    params = sloped(f.init(Boxed().init(jax.random.key(0), X), X), 1)
    compact, _ = f.trace(params, X).collapse()
    (specs,) = nn.get_partition_spec(compact)["fused"].values()
    assert specs == {"kernel": jax.P("embed", "out"), "bias": jax.P("out")}
    close(f(compact, X), f(params, X))


MESHES = """
import flax.linen as nn, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
import lcjax

x = jax.random.normal(jax.random.key(0), (4, 8, 6))
shapes = {"w1": (6, 16), "b1": (16,), "w2": (16, 8), "b2": (8,)}
specs = {"w1": jax.P(None, "m"), "b1": jax.P("m"), "w2": jax.P("m", None), "b2": jax.P(None)}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        place = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
        random = {n: jax.random.normal(jax.random.key(1), shape) for n, shape in shapes.items()}
        model = {name: place(array, specs[name]) for name, array in random.items()}
        batch = place(x, jax.P("d"))

        def fn(p, x):
            out = lambda *axes: dict(out_sharding=jax.P(*axes)) if kind is AxisType.Explicit else {}
            h = jnp.einsum("btd,dh->bth", x, p["w1"], **out("d", None, "m")) + p["b1"]
            return jnp.einsum("bth,ho->bto", nn.gelu(h), p["w2"], **out("d", None, None)) + p["b2"]

        f = lcjax.collapsible(fn)
        params = f.init(model, batch)
        assert jnp.allclose(jax.jit(f)(params, batch), jax.jit(fn)(model, batch), atol=1e-5)
        linear = params | {"slopes": jax.tree.map(jnp.ones_like, params["slopes"])}
        gradient = jax.jit(jax.grad(lambda p: (f(p, batch) ** 2).sum()))(linear)
        assert gradient["slopes"]["w1"]["slope"] != 0
        compact, _ = f.trace(linear, batch).collapse()
        (entry,) = compact["fused"].values()
        assert entry["kernel"].sharding.mesh == mesh
        want = jax.jit(f)(linear, batch)
        got = jax.jit(f)(compact, batch)
        assert jnp.allclose(got, want, atol=1e-4) and got.sharding.spec[0] == "d"
"""


@pytest.mark.slow
def test_collapse_of_sharded_params():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", MESHES], check=True, env=os.environ | flags)


# Checkpoints have these keys: a change of format would make saved trees unreadable.
KEYS = {
    "chain": 'w1 {"form": ["linear"], "hidden": [16], '
    '"removed": {"b1": [16], "w1": [6, 16], "w2": [16, 8]}}',
    "SwiGLU": 'w1 {"form": ["linear"], "hidden": [16], '
    '"removed": {"g": [6, 16], "w1": [6, 16], "w2": [16, 4]}}',
    "scan": 'w1 {"form": ["linear"], "hidden": [16], '
    '"removed": {"b1": [4, 16], "b2": [4, 6], "w1": [4, 6, 16], "w2": [4, 16, 6]}}',
    "two scans": 'stages/blocks/up {"form": ["linear"], "hidden": [12], "removed": '
    '{"params/stages/blocks/down/bias": [3, 2, 6], '
    '"params/stages/blocks/down/kernel": [3, 2, 12, 6], '
    '"params/stages/blocks/up/bias": [3, 2, 12], '
    '"params/stages/blocks/up/kernel": [3, 2, 6, 12]}}',
}
# And trees that earlier versions saved have these.
OLD_KEYS = {
    "chain": "w1|hidden=16||b1:16,w1:6x16,w2:16x8",
    "SwiGLU": "w1|hidden=16||g:6x16,w1:6x16,w2:16x4",
    "scan": "w1|hidden=16||b1:4x16,b2:4x6,w1:4x6x16,w2:4x16x6",
    "two scans": "stages/blocks/up|hidden=12|params/stages/blocks|down/bias:3x2x6,"
    "down/kernel:3x2x12x6,up/bias:3x2x12,up/kernel:3x2x6x12",
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_fused_entries_keep_the_format_of_saved_trees(name):
    case = CASES[name]
    call = lcjax.collapsible(case.fn).trace(case.params, *case.inputs)
    compact, _ = call.abstract_collapse(case.sites[:1])
    assert list(compact["fused"]) == [KEYS[name]]


@pytest.mark.parametrize("name", OLD_KEYS)
def test_trees_with_old_keys_run(name, tmp_path):
    case = CASES[name]
    f = lcjax.collapsible(case.fn)
    deep = sloped(f.init(case.params, *case.inputs), 1)
    compact, _ = f.trace(deep, *case.inputs).collapse(case.sites[:1])
    ((key, entry),) = compact["fused"].items()
    assert FusedKey.parse(OLD_KEYS[name]) == FusedKey.parse(key)
    lcjax.save(tmp_path / "old", compact | {"fused": {OLD_KEYS[name]: entry}})
    old = lcjax.restore(tmp_path / "old")
    assert list(old["fused"]) == [OLD_KEYS[name]]
    chex.assert_trees_all_equal(f(old, *case.inputs), f(compact, *case.inputs))
    assert f.trace(old, *case.inputs).collapsed == {case.sites[0]}


def test_old_key_of_containers_that_are_no_dicts():
    state = nnx.state(nnx_model())
    f = lcjax.collapsible(nnx_apply)
    compact, _ = f.trace(sloped(f.init(state, X), 1), X).collapse()
    (entry,) = compact["fused"].values()
    old = "layers/0|hidden=16|layers|[0]/bias/@value:16,[0]/kernel/@value:6x16,"
    old += "[2]/bias/@value:4,[2]/kernel/@value:16x4"
    assert FusedKey.parse(old) == FusedKey.parse(next(iter(compact["fused"])))
    chex.assert_trees_all_equal(f(compact | {"fused": {old: entry}}, X), f(compact, X))
