"""Containers: what `save` takes `restore` gives back, with `like` and without."""

import sys
from collections import OrderedDict, namedtuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from jax.example_libraries import stax

import lcjax
from lcjax.cli.inspection import inspect_checkpoint
from lcjax.io.checkpoint import restore, save
from lcjax.io.containers import MAX_DEPTH, containers
from tests.lcjax.io.checkpoints import bits

A, B = np.arange(3.0), np.ones((2, 2), np.float32)

TREES = {
    "a large index": {"a": {1_000_000: A}},
    "indices": {"a": {0: A, 1: B}, "b": {5: A}},
    "an index at the root": {3: A, 70_000: B},
    "indices below lists": {"a": [{7: A}, {0: [B]}]},
    "strings of digits": {"a": {"0": A, "1": B}},
    "trailing empties": {"a": [A, (), [], {}, None]},
    "leading empties": {"a": [(), [], {}, None, A]},
    "only empties": {"x": A, "a": [(), ()], "b": ([], {}), "c": ((),)},
    "empties of every kind": {"x": A, "t": (), "l": [], "d": {}, "n": None},
    "None in a dict": {"a": A, "b": None, "c": {"d": None}},
    "tuples": {"a": (A, (B, [A])), "b": ((A,),)},
    "a tuple at the root": (A, (), {"b": B}),
    "a list at the root": [A, None, [B, None]],
    "an empty array in each": {"a": [np.ones((0, 3)), (np.ones(0), A)], "b": {4: np.ones(0)}},
    "a list of one empty": {"x": A, "a": [[]], "b": [None], "c": [{}]},
    "stax": [(A, B), (), (A, B), (), ()],
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_restore_every_container(tmp_path, name, place):
    tree = jax.tree.map(place, TREES[name])
    save(tmp_path / "a", tree)
    for restored in (restore(tmp_path / "a"), restore(tmp_path / "a", like=tree)):
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        assert bits(restored) == bits(tree)
    inspect_checkpoint(tmp_path / "a")


Pair = namedtuple("Pair", "first second")


def test_restore_other_containers_as_dicts(tmp_path):
    tree = {"p": Pair(A, ()), "o": OrderedDict(b=A, a=B), "f": freeze({"x": A, "y": {}})}
    save(tmp_path / "a", tree)
    plain = {"p": {"first": A, "second": ()}, "o": {"a": B, "b": A}, "f": {"x": A, "y": {}}}
    assert jax.tree.structure(restore(tmp_path / "a")) == jax.tree.structure(plain)
    restored = restore(tmp_path / "a", like=tree)
    assert jax.tree.structure(restored) == jax.tree.structure(tree)


def test_restore_optimizer_state_structure(tmp_path):
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"w": jnp.ones(2)})
    save(tmp_path / "a", state)
    restored = restore(tmp_path / "a")
    assert isinstance(restored, tuple) and len(restored) == len(state)
    assert restored[0] == {} and restored[1][0]["mu"]["w"].shape == (2,)
    like = restore(tmp_path / "a", like=state)
    assert jax.tree.structure(like) == jax.tree.structure(state)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)])


def test_restore_nnx_state_as_pure_dict(tmp_path):
    state = nnx.state(Net(nnx.Rngs(0)))
    save(tmp_path / "a", state)
    restored = restore(tmp_path / "a")
    pure = nnx.to_pure_dict(state)
    assert jax.tree.structure(restored) == jax.tree.structure(pure)
    fresh = nnx.state(Net(nnx.Rngs(1)))
    nnx.replace_by_pure_dict(fresh, restored)
    assert bits(nnx.to_pure_dict(fresh)) == bits(pure)
    assert jax.tree.structure(restore(tmp_path / "a", like=state)) == jax.tree.structure(state)


def test_containers_ignore_boxes():
    boxed = {"k": nn.Partitioned(jnp.ones(2), ("x",)), "t": (nn.Partitioned(jnp.ones(2), ("x",)),)}
    assert containers(boxed) == {("t",): "tuple"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "layers",
    [
        (stax.Dense(8), stax.Relu, stax.Dense(4), stax.LogSoftmax),
        (stax.Flatten, stax.Dense(8), stax.Relu, stax.Dense(4), stax.Softmax),
        (stax.Dense(6), stax.Softmax, stax.Dense(8), stax.Relu, stax.Dense(4), stax.LogSoftmax),
    ],
)
@pytest.mark.parametrize("collapsed", [False, True])
def test_restore_stax_params(tmp_path, layers, collapsed):
    init, apply = stax.serial(*layers)
    _, params = init(jax.random.key(0), (-1, 5))
    x = jax.random.normal(jax.random.key(1), (3, 5))
    f = lcjax.collapsible(apply)
    tree = f.init(params, x)
    tree["slopes"] = jax.tree.map(jnp.ones_like, tree["slopes"])
    if collapsed:
        tree, _ = f.trace(tree, x).collapse()
    save(tmp_path / "a", tree)
    np.testing.assert_array_equal(f(restore(tmp_path / "a"), x), f(tree, x))


def nested(levels):
    tree = {"w": A}
    for _ in range(levels):
        tree = {"a": tree}
    return tree


def test_save_rejects_deep_trees(tmp_path):
    save(tmp_path / "a", nested(100))
    assert jax.tree.structure(restore(tmp_path / "a")) == jax.tree.structure(nested(100))
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} levels"):
        save(tmp_path / "b", nested(300))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_save_large_indices_cheaply(tmp_path):
    """A list of 1,000,001 took minutes and 4 GB."""
    save(tmp_path / "a", {"a": {10**15: A}})
    assert sys.getsizeof(restore(tmp_path / "a")["a"]) < 1000


def fitted(apply, params, x, rank):
    f = lcjax.collapsible(apply)
    tree = f.init(params, x)
    call = f.trace(tree, x)
    stats = call.calibrate([(x,)], fit=lcjax.LeastSquares(rank=rank))
    compact, report = call.collapse(calibration=stats)
    like, _ = f.trace(params, x).abstract_collapse(list(report.collapsed))
    return f, compact, like


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(4, 12, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(12, 4, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


def _nnx():
    graph, params = nnx.split(Mlp(nnx.Rngs(0)))
    return lambda p, x: nnx.merge(graph, p)(x), params


def _equinox():
    eqx = pytest.importorskip("equinox", reason="pip install equinox")
    model = eqx.nn.MLP(4, 4, 12, 1, use_bias=False, use_final_bias=False, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params


def _pairs():
    keys = jax.random.split(jax.random.key(0))
    params = Pair(jax.random.normal(keys[0], (4, 12)), jax.random.normal(keys[1], (12, 4)))
    return lambda p, x: jax.nn.relu(x @ p.first) @ p.second, params


@pytest.mark.slow
@pytest.mark.parametrize("make", [_nnx, _equinox, _pairs])
@pytest.mark.parametrize("rank", [None, 2])
def test_restore_like_with_fitted_entries(tmp_path, make, rank):
    x = jax.random.normal(jax.random.key(1), (32, 4))
    f, compact, like = fitted(*make(), x, rank)
    assert jax.tree.structure(like) != jax.tree.structure(compact)
    save(tmp_path / "a", compact)
    restored = restore(tmp_path / "a", like=like)
    assert jax.tree.structure(restored) == jax.tree.structure(compact)
    np.testing.assert_array_equal(f(restored, x), f(compact, x))


def test_restore_like_rejects_other_sites(tmp_path):
    x = jax.random.normal(jax.random.key(1), (32, 4))
    _, compact, like = fitted(*_pairs(), x, None)
    save(tmp_path / "a", compact)
    like["fused"] = {f"{key}x": dense for key, dense in like["fused"].items()}
    with pytest.raises(lcjax.CheckpointError, match="checkpoint and like differ"):
        restore(tmp_path / "a", like=like)
