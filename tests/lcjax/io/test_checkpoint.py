"""Checkpoints: bit for bit back, strict about `like`, and no damage goes unseen."""

import asyncio
import json
import os
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from lcjax.errors import CheckpointError
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.nn.mlp import CollapsibleMLP
from lcjax.surgery.collapse import abstract_collapse, collapse
from tests.lcjax.io.checkpoints import (
    DTYPES,
    METADATA,
    bits,
    example_tree,
    in_jax,
    random_array,
    run_python,
)

# What comes back.


names = st.text("ab/.|= é0", min_size=1, max_size=3)
arrays = st.builds(
    lambda dtype, shape, seed, place: place(random_array(dtype, shape, seed)),
    st.sampled_from(DTYPES),
    st.sampled_from([(), (3,), (2, 3), (0, 2)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.asarray, in_jax]),
)
trees = st.recursive(
    st.one_of(arrays, st.just({})), lambda child: st.dictionaries(names, child, max_size=3)
)


def _share_a_name(tree):
    keys = [keys for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
    dotted = [".".join(key.key for key in path).rstrip("/") for path in keys]
    return len(set(dotted)) < len(dotted)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(names, trees, max_size=3).map(lambda tree: tree | {"one": np.ones(1)}),
    st.booleans(),
)
def test_save_restore_roundtrip_property(tree, frozen):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a")
        if _share_a_name(tree):
            with pytest.raises(ValueError, match="orbax stores both under one name"):
                save(path, tree)
            return
        save(path, freeze(tree) if frozen else tree)
        restored = restore(path)
    assert bits(restored) == bits(tree)
    assert type(restored) is dict


@pytest.mark.parametrize("place", [np.asarray, in_jax])
def test_restore_every_dtype_bitwise(tmp_path, place):
    tree = {dtype: place(random_array(dtype, (7, 3))) for dtype in DTYPES}
    save(tmp_path / "a", tree)
    assert bits(restore(tmp_path / "a")) == bits(tree)
    assert bits(restore(tmp_path / "a", like=tree)) == bits(tree)


def test_restore_returns_numpy_where_jax_narrows(saved):
    restored = restore(saved)
    kinds = {dtype: isinstance(leaf, jax.Array) for dtype, leaf in _by_dtype(restored).items()}
    assert kinds == {"bfloat16": True, "float32": True, "float64": False, "int64": False}


def _by_dtype(tree):
    return {leaf.dtype.name: leaf for leaf in jax.tree.leaves(tree)}


def test_save_in_running_event_loop(tmp_path):
    async def notebook():
        save(tmp_path / "a", {"a": jnp.ones(2)})
        return restore(tmp_path / "a")

    assert asyncio.run(notebook())["a"].tolist() == [1, 1]


FRESH = """
import hashlib, json, sys, jax, numpy as np
from lcjax.io.checkpoint import read_metadata, restore, save
tree = restore(sys.argv[1])
save(sys.argv[2], tree, metadata=read_metadata(sys.argv[1]))
print(json.dumps([isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)]))
"""


@pytest.mark.slow
def test_restore_in_fresh_process_silently(saved, tmp_path):
    process = run_python(FRESH, saved, tmp_path / "again", JAX_ENABLE_X64="1")
    assert process.stderr == ""
    assert json.loads(process.stdout) == [True] * 5  # float64 too, where JAX has it
    assert bits(restore(tmp_path / "again")) == bits(example_tree())
    assert read_metadata(tmp_path / "again") == METADATA


def test_save_noncontiguous_arrays(tmp_path):
    big_endian = np.arange(6, dtype=">f4").reshape(2, 3)
    tree = {
        "endian": big_endian,
        "fortran": np.asfortranarray(big_endian),
        "view": np.arange(9)[::-2],
    }
    save(tmp_path / "a", tree)
    restored = restore(tmp_path / "a")
    assert all(np.array_equal(restored[name], leaf) for name, leaf in tree.items())
    assert restored["endian"].dtype == np.float32


def test_save_python_numbers(tmp_path):
    tree = {"step": 2**40, "rate": 0.1, "done": True, "scalar": np.float32(0.1)}
    save(tmp_path / "a", tree)
    for restored in (restore(tmp_path / "a"), restore(tmp_path / "a", like=tree)):
        assert {name: leaf.item() for name, leaf in restored.items()} == {
            **tree,
            "scalar": np.float32(0.1).item(),
        }
        assert restored["rate"].dtype == np.float64


class State(NamedTuple):
    count: jax.Array
    nothing: tuple
    trace: list


def test_restore_namedtuple_with_and_without_like(tmp_path):
    tree = {"state": (State(jnp.int32(3), (), [None, jnp.ones(2), {}]), jnp.zeros(1))}
    save(tmp_path / "a", tree)
    count, trace, last = jnp.int32(3), [None, jnp.ones(2), {}], jnp.zeros(1)
    plain = {"state": ({"count": count, "nothing": (), "trace": trace}, last)}
    restored = restore(tmp_path / "a")
    assert jax.tree.structure(restored) == jax.tree.structure(plain)
    assert bits(restored) == bits(plain)
    like = restore(tmp_path / "a", like=tree)
    assert jax.tree.structure(like) == jax.tree.structure(tree)
    assert isinstance(like["state"][0], State)


def test_orbax_reads_checkpoint(saved):
    tree = {key: child for key, child in example_tree().items() if child}
    assert bits(ocp.load(saved, jax.tree.map(np.asarray, tree))) == bits(tree)


def test_restore_compact_model(tmp_path):
    model, x = CollapsibleMLP((5, 3)), jnp.ones((2, 4))
    dense = [{"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])} for shape in ((4, 5), (5, 3))]
    deep = {"dense_0": dense[0], "act_0": {"slope": jnp.float32(1)}, "dense_1": dense[1]}
    deep = {"params": deep}
    compact, _ = collapse(deep)
    save(tmp_path / "a", compact)
    restored = restore(tmp_path / "a")
    assert np.array_equal(model.apply(restored, x), model.apply(compact, x))
    abstract, _ = abstract_collapse(jax.eval_shape(lambda: deep), ["act_0"])
    assert bits(restore(tmp_path / "a", like=abstract)) == bits(compact)
    with pytest.raises(CheckpointError, match=r"\+ only in like: params/act_0/slope \(\) float32"):
        restore(tmp_path / "a", like=deep)


# Paths.


def test_save_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save("runs/one/compact", {"a": np.ones(2)})
    save("~/compact", {"a": np.zeros(2)})
    assert restore(tmp_path / "runs/one/compact")["a"].tolist() == [1, 1]
    assert restore(str(tmp_path / "home/compact"))["a"].tolist() == [0, 0]
    assert restore("runs/one/compact")["a"].tolist() == [1, 1]
    assert restore("~/compact")["a"].tolist() == [0, 0]


@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.write_text("kept")])
def test_save_rejects_existing_path(tmp_path, make):
    make(tmp_path / "there")
    with pytest.raises(FileExistsError, match="there already exists; expected a new path. Choose"):
        save(tmp_path / "there", example_tree())
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_save_rejects_existing_checkpoint(copy):
    with pytest.raises(FileExistsError, match="Choose another one, or move the old one away"):
        save(copy, {"a": np.ones(2)})
    assert bits(restore(copy)) == bits(example_tree())


@pytest.mark.parametrize("read", [restore, read_metadata])
def test_restore_rejects_missing_path(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="absent: no such checkpoint"):
        read(tmp_path / "absent")


# Metadata.


def test_read_metadata_roundtrip(saved, tmp_path):
    assert read_metadata(saved) == METADATA
    save(tmp_path / "none", {"a": np.ones(1)})
    assert read_metadata(tmp_path / "none") == {}


@pytest.mark.parametrize("metadata", [{"a": np.ones(2)}, {"a": {1}}, {(1, 2): 3}, 0, "text", [1]])
def test_save_rejects_metadata_beyond_json(tmp_path, metadata):
    with pytest.raises(TypeError, match="metadata: .*expected a dict of strings, numbers"):
        save(tmp_path / "a", {"a": np.ones(1)}, metadata=metadata)
    assert not any(tmp_path.iterdir())


# What cannot be saved.


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (lambda: jax.random.key(0), r"a/b: got dtype key<fry>.*jax\.random\.key_data"),
        (lambda: np.array([object()]), "a/b: got dtype object"),
        (lambda: np.array(["text"]), "a/b: got dtype <U4"),
        (lambda: np.ones(2, np.longdouble), "a/b: got dtype float128"),
        (lambda: jnp.ones(2, jnp.int4), "a/b: got dtype int4"),
        (lambda: 2**70, "a/b: got dtype object"),
        (lambda: np.ma.masked_array([1.0, 2.0], [0, 1]), "a/b: got a masked array"),
        (lambda: "text", "a/b: got str, expected an array"),
        (lambda: jax.ShapeDtypeStruct((2,), np.float32), "a/b: got ShapeDtypeStruct"),
    ],
)
def test_save_rejects_unsupported_leaves(tmp_path, leaf, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "a", {"a": {"b": leaf(), "c": np.ones(2)}})
    assert not any(tmp_path.iterdir())


def test_save_rejects_traced_and_donated_leaves(tmp_path):
    with pytest.raises(TypeError, match="a: got .*Tracer, expected an array with values"):
        jax.jit(lambda x: save(tmp_path / "a", {"a": x}))(jnp.ones(2))
    donated = jnp.ones(2)
    donated.delete()
    with pytest.raises(ValueError, match="a/b: got an array that was donated or deleted"):
        save(tmp_path / "a", {"a": {"b": donated}})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("tree", [{}, {"a": {}}, {"a": None}, {"a": np.ones((0, 2))}, np.ones(2)])
def test_save_rejects_trees_without_arrays(tmp_path, tree):
    with pytest.raises(ValueError, match="tree: got no array with elements"):
        save(tmp_path / "a", tree)
    assert not any(tmp_path.iterdir())


def test_save_rejects_unsupported_keys(tmp_path):
    for key in (2.5, -1, True):
        with pytest.raises(TypeError, match=rf"got the key \[{key}\], expected a string or an in"):
            save(tmp_path / "a", {"a": {key: np.ones(2)}})
    with pytest.raises(TypeError, match="a dict with keys of several types"):
        save(tmp_path / "a", {"a": {0: np.ones(2), "b": np.ones(2)}})
    with pytest.raises(ValueError, match="got a key that is not UTF-8"):
        save(tmp_path / "a", {"a": {"\ud800": np.ones(2)}})
    with pytest.raises(ValueError, match=r"a/b and a\.b: orbax stores both under one name"):
        save(tmp_path / "a", {"a": {"b": np.ones(2)}, "a.b": np.ones(2)})
    assert not any(tmp_path.iterdir())


def test_restore_indices_as_keys(tmp_path):
    tree = {"layers": {0: {"w": np.arange(3.0)}, 2: {"w": np.arange(2.0)}}}
    save(tmp_path / "a", tree)
    assert bits(restore(tmp_path / "a", like=tree)) == bits(tree)
    assert bits(restore(tmp_path / "a")) == bits(tree)
