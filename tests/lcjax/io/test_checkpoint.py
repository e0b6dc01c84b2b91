"""Checkpoints: bit for bit back, strict about `like`, and no damage goes unseen."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from lcjax.io import manifest
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.manifest import CheckpointError
from lcjax.nn.mlp import CollapsibleMLP
from lcjax.surgery.collapse import abstract_collapse, collapse

DTYPES = """bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
complex64 complex128 float8_e4m3fn float8_e4m3b11fnuz float8_e5m2""".split()
METADATA = {"sites": ["block_0/mlp/act_0"], "accuracy": 0.97, "note": None}


def _bits(tree):
    """The tree as plain dicts and lists, with shape, dtype and bytes in place of every leaf."""
    if isinstance(tree, dict | FrozenDict):
        return {key: _bits(child) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [_bits(child) for child in tree]
    if tree is None:
        return None
    return tree.shape, tree.dtype.name, np.asarray(tree).tobytes()


def _random(dtype, shape, seed=0):
    """Bits of every kind, NaNs and infinities among them."""
    dtype, draw = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return draw.integers(0, 2, shape).astype(bool)
    raw = draw.integers(0, 256, (int(np.prod(shape)), dtype.itemsize), np.uint8)
    return raw.view(dtype).reshape(shape)


def _in_jax(array):
    narrowed = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if narrowed else jax.device_put(array)


def _tree():
    return {
        "params": {
            "block_2": {"mlp": {"dense_1": {"kernel": jnp.asarray(_random("bfloat16", (4, 3)))}}},
            "block_10": {
                "kernel": jnp.asarray(_random("float32", (40, 32))),
                "slope": jnp.float32(1),
            },
        },
        "statistics": {"mean": _random("float64", (5,)), "count": np.arange(3)},
        "batch_stats": {},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "compact"
    save(path, _tree(), metadata=METADATA)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def _python(script, *arguments, check=True, **environment):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)


# What comes back.


names = st.text("ab/.|= é0", min_size=1, max_size=3)
arrays = st.builds(
    lambda dtype, shape, seed, place: place(_random(dtype, shape, seed)),
    st.sampled_from(DTYPES),
    st.sampled_from([(), (3,), (2, 3), (0, 2)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.asarray, _in_jax]),
)
trees = st.recursive(
    st.one_of(arrays, st.just({})), lambda child: st.dictionaries(names, child, max_size=3)
)


def _has_dotted_twins(tree):
    keys = [keys for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
    dotted = [".".join(key.key for key in path) for path in keys]
    return len(set(dotted)) < len(dotted)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(names, trees, max_size=3).map(lambda tree: tree | {"one": np.ones(1)}),
    st.booleans(),
)
def test_restore_after_save_is_the_identity(tree, frozen):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a")
        if _has_dotted_twins(tree):
            with pytest.raises(ValueError, match="orbax stores both under one name"):
                save(path, tree)
            return
        save(path, freeze(tree) if frozen else tree)
        restored = restore(path)
    assert _bits(restored) == _bits(tree)
    assert type(restored) is dict


@pytest.mark.parametrize("place", [np.asarray, _in_jax])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, place):
    tree = {dtype: place(_random(dtype, (7, 3))) for dtype in DTYPES}
    save(tmp_path / "a", tree)
    assert _bits(restore(tmp_path / "a")) == _bits(tree)
    assert _bits(restore(tmp_path / "a", like=tree)) == _bits(tree)


def test_leaves_are_jax_arrays_unless_jax_would_narrow_them(saved):
    restored = restore(saved)
    kinds = {dtype: isinstance(leaf, jax.Array) for dtype, leaf in _by_dtype(restored).items()}
    assert kinds == {"bfloat16": True, "float32": True, "float64": False, "int64": False}


def _by_dtype(tree):
    return {leaf.dtype.name: leaf for leaf in jax.tree.leaves(tree)}


def test_inside_a_running_event_loop(tmp_path):
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


def test_a_fresh_process_restores_without_the_model_and_says_nothing(saved, tmp_path):
    process = _python(FRESH, saved, tmp_path / "again", JAX_ENABLE_X64="1")
    assert process.stderr == ""
    assert json.loads(process.stdout) == [True] * 5  # float64 too, where JAX has it
    assert _bits(restore(tmp_path / "again")) == _bits(_tree())
    assert read_metadata(tmp_path / "again") == METADATA


def test_odd_layouts_in_memory(tmp_path):
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


def test_python_numbers_become_arrays_of_the_same_value(tmp_path):
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


def test_other_containers_come_back_as_dicts_or_as_in_like(tmp_path):
    tree = {"state": (State(jnp.int32(3), (), [None, jnp.ones(2), {}]), jnp.zeros(1))}
    save(tmp_path / "a", tree)
    count, trace, last = jnp.int32(3), [None, jnp.ones(2), {}], jnp.zeros(1)
    plain = {"state": ({"count": count, "nothing": (), "trace": trace}, last)}
    restored = restore(tmp_path / "a")
    assert jax.tree.structure(restored) == jax.tree.structure(plain)
    assert _bits(restored) == _bits(plain)
    like = restore(tmp_path / "a", like=tree)
    assert jax.tree.structure(like) == jax.tree.structure(tree)
    assert isinstance(like["state"][0], State)


def test_orbax_alone_reads_the_arrays(saved):
    tree = {key: child for key, child in _tree().items() if child}
    assert _bits(ocp.load(saved, jax.tree.map(np.asarray, tree))) == _bits(tree)


def test_a_compact_model_restores_and_runs(tmp_path):
    model, x = CollapsibleMLP((5, 3)), jnp.ones((2, 4))
    dense = [{"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])} for shape in ((4, 5), (5, 3))]
    deep = {"dense_0": dense[0], "act_0": {"slope": jnp.float32(1)}, "dense_1": dense[1]}
    deep = {"params": deep}
    compact, _ = collapse(deep)
    save(tmp_path / "a", compact)
    restored = restore(tmp_path / "a")
    assert np.array_equal(model.apply(restored, x), model.apply(compact, x))
    abstract, _ = abstract_collapse(jax.eval_shape(lambda: deep), ["act_0"])
    assert _bits(restore(tmp_path / "a", like=abstract)) == _bits(compact)
    with pytest.raises(CheckpointError, match=r"\+ only in like: params/act_0/slope \(\) float32"):
        restore(tmp_path / "a", like=deep)


# Paths.


def test_relative_and_home_paths_and_parents_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save("runs/one/compact", {"a": np.ones(2)})
    save("~/compact", {"a": np.zeros(2)})
    assert restore(tmp_path / "runs/one/compact")["a"].tolist() == [1, 1]
    assert restore(str(tmp_path / "home/compact"))["a"].tolist() == [0, 0]
    assert restore("runs/one/compact")["a"].tolist() == [1, 1]
    assert restore("~/compact")["a"].tolist() == [0, 0]


@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.write_text("kept")])
def test_whatever_exists_is_never_overwritten(tmp_path, make):
    make(tmp_path / "there")
    with pytest.raises(FileExistsError, match="there exists and nothing is ever overwritten: name"):
        save(tmp_path / "there", _tree())
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_checkpoint_is_never_overwritten(copy):
    with pytest.raises(FileExistsError, match="name another path, or move what is there"):
        save(copy, {"a": np.ones(2)})
    assert _bits(restore(copy)) == _bits(_tree())


@pytest.mark.parametrize("read", [restore, read_metadata])
def test_nothing_at_the_path(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="absent: no such checkpoint"):
        read(tmp_path / "absent")


# Metadata.


def test_metadata_comes_back(saved, tmp_path):
    assert read_metadata(saved) == METADATA
    save(tmp_path / "none", {"a": np.ones(1)})
    assert read_metadata(tmp_path / "none") == {}


@pytest.mark.parametrize("metadata", [{"a": np.ones(2)}, {"a": {1}}, {(1, 2): 3}, 0, "text", [1]])
def test_metadata_that_json_cannot_hold(tmp_path, metadata):
    with pytest.raises(TypeError, match="metadata: .*wanted a dict that JSON can hold"):
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
        (lambda: "text", "a/b: got str, wanted an array"),
        (lambda: jax.ShapeDtypeStruct((2,), np.float32), "a/b: got ShapeDtypeStruct"),
    ],
)
def test_leaves_that_cannot_be_saved(tmp_path, leaf, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "a", {"a": {"b": leaf(), "c": np.ones(2)}})
    assert not any(tmp_path.iterdir())


def test_traced_and_donated_leaves(tmp_path):
    with pytest.raises(TypeError, match="a: got .*Tracer, wanted an array with values"):
        jax.jit(lambda x: save(tmp_path / "a", {"a": x}))(jnp.ones(2))
    donated = jnp.ones(2)
    donated.delete()
    with pytest.raises(ValueError, match="a/b: the array was donated or deleted"):
        save(tmp_path / "a", {"a": {"b": donated}})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("tree", [{}, {"a": {}}, {"a": None}, {"a": np.ones((0, 2))}, np.ones(2)])
def test_trees_without_arrays(tmp_path, tree):
    with pytest.raises(ValueError, match="compact: got no named array with elements"):
        save(tmp_path / "a", tree)
    assert not any(tmp_path.iterdir())


def test_keys_that_cannot_be_saved(tmp_path):
    for key in (2.5, -1, True):
        with pytest.raises(TypeError, match=rf"has the key \[{key}\]; wanted a string or an index"):
            save(tmp_path / "a", {"a": {key: np.ones(2)}})
    with pytest.raises(TypeError, match="a dict with keys of several kinds"):
        save(tmp_path / "a", {"a": {0: np.ones(2), "b": np.ones(2)}})
    with pytest.raises(ValueError, match="got a key that is no UTF-8"):
        save(tmp_path / "a", {"a": {"\ud800": np.ones(2)}})
    with pytest.raises(ValueError, match=r"a/b and a\.b: orbax stores both under one name"):
        save(tmp_path / "a", {"a": {"b": np.ones(2)}, "a.b": np.ones(2)})
    assert not any(tmp_path.iterdir())


def test_indices_as_keys_come_back(tmp_path):
    tree = {"layers": {0: {"w": np.arange(3.0)}, 2: {"w": np.arange(2.0)}}}
    save(tmp_path / "a", tree)
    assert _bits(restore(tmp_path / "a", like=tree)) == _bits(tree)
    assert _bits(restore(tmp_path / "a")) == _bits(tree)


# like.


@pytest.mark.parametrize(
    "convert",
    [
        lambda tree: tree,
        freeze,
        lambda tree: jax.eval_shape(lambda: tree),
        lambda tree: jax.tree.map(np.zeros_like, tree),
    ],
    ids=["arrays", "frozen", "abstract", "numpy"],
)
def test_like_gives_its_containers(tmp_path, convert):
    tree = {"params": {"dense": {"kernel": jnp.asarray(_random("float32", (4, 3)))}}, "stats": {}}
    like = convert(tree)
    save(tmp_path / "a", tree)
    restored = restore(tmp_path / "a", like=like)
    assert jax.tree.structure(restored) == jax.tree.structure(like)
    assert _bits(restored) == _bits(tree)


def test_boxes_come_off_to_be_saved_and_on_again_with_like(tmp_path):
    kernel = jnp.asarray(_random("float32", (4, 3)))
    boxed = {"dense": {"kernel": nn.Partitioned(kernel, ("in", "out")), "bias": jnp.ones(3)}}
    plain = {"dense": {"kernel": kernel, "bias": jnp.ones(3)}}
    save(tmp_path / "a", boxed)
    assert _bits(restore(tmp_path / "a")) == _bits(plain)
    for like in (boxed, jax.eval_shape(lambda: boxed)):
        restored = restore(tmp_path / "a", like=like)
        assert restored["dense"]["kernel"].names == ("in", "out")
        assert _bits(nn.unbox(restored)) == _bits(plain)


def test_like_shows_the_difference(copy):
    like = _tree()
    like["params"]["block_10"] = {"kernel": np.ones((40, 31), np.float32), "slope": np.float16(1)}
    like["params"]["block_2"] = {"mlp": {"dense_0": {"kernel": jnp.ones((4, 3))}}}
    like["key"] = jax.random.key(0)
    with pytest.raises(CheckpointError, match="checkpoint and like differ at 5 leaves") as error:
        restore(copy, like=like)
    assert str(error.value).splitlines()[1:] == [
        "+ only in like: key () key<fry>",
        "+ only in like: params/block_2/mlp/dense_0/kernel (4, 3) float32",
        "- only in checkpoint: params/block_2/mlp/dense_1/kernel (4, 3) bfloat16",
        "! params/block_10/kernel: checkpoint (40, 32) float32, like (40, 31) float32",
        "! params/block_10/slope: checkpoint () float32, like () float16",
        "Give a like with the checkpoint's leaves, or none.",
    ]


def test_a_long_difference_is_shortened(copy):
    with pytest.raises(CheckpointError, match="differ at 45 leaves") as error:
        restore(copy, like={f"dense_{i}": np.ones(1) for i in range(40)})
    lines = str(error.value).splitlines()
    assert lines[10:13] == [f"+ only in like: dense_{i} (1,) float64" for i in (9, 10, 11)]
    assert lines[21:] == ["... and 25 more", "Give a like with the checkpoint's leaves, or none."]


def test_placement_is_committed_only_where_it_was_asked_for(saved):
    tree, device = _tree(), jax.devices()[0]
    assert not restore(saved)["params"]["block_10"]["kernel"].committed
    assert not restore(saved, like=tree)["params"]["block_10"]["kernel"].committed
    like = jax.tree.map(lambda leaf: jax.device_put(leaf, device), tree["params"])
    restored = restore(saved, like=tree | {"params": like})
    assert restored["params"]["block_10"]["kernel"].committed
    everywhere = restore(saved, sharding=SingleDeviceSharding(device))
    assert everywhere["params"]["block_10"]["slope"].committed
    assert _bits(everywhere) == _bits(tree)  # float64 stays in NumPy


SHARDED = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lcjax.io.checkpoint import restore, save
from lcjax.io.manifest import CheckpointError
path = sys.argv[1]
mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
on = lambda *spec: NamedSharding(mesh, P(*spec))
values = {"kernel": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
          "bias": np.arange(4, dtype=np.float32), "slope": np.float32(1)}
layout = {"kernel": on("x", "y"), "bias": on("y"), "slope": on()}
tree = jax.device_put(values, layout)

def check(restored, layout):
    for name, value in values.items():
        leaf = restored[name]
        assert leaf.sharding.is_equivalent_to(layout[name], leaf.ndim), (name, leaf.sharding)
        for shard in leaf.addressable_shards:
            assert np.array_equal(shard.data, value[shard.index]), name

save(path, tree)
chunks = (path + "/state/array_metadatas/process_0")
assert '"chunk_shape": [4, 2]' in open(chunks).read(), "written whole, not by shard"
check(restore(path, like=tree), layout)
check(restore(path, like=jax.eval_shape(lambda: tree), sharding=layout), layout)
other = {"kernel": on(None, ("x", "y")), "bias": on("x"), "slope": on()}
check(restore(path, sharding=other), other)
check(restore(path, like=tree, sharding=other), other)
check(restore(path, sharding=on()), dict.fromkeys(values, on()))
abstract = {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=other[name])
            for name, value in values.items()}
check(restore(path, like=abstract), other)
plain = restore(path)
assert all(len(leaf.devices()) == 1 and np.array_equal(leaf, values[name])
           for name, leaf in plain.items())
explicit = jax.make_mesh((4,), ("z",))
layout = {"kernel": NamedSharding(explicit, P("z", None)), "bias": NamedSharding(explicit, P(None)),
          "slope": NamedSharding(explicit, P())}
check(restore(path, sharding=layout), layout)

def message(**keywords):
    try:
        restore(path, **keywords)
    except (TypeError, ValueError) as error:
        return type(error).__name__ + " " + str(error)

three = NamedSharding(jax.sharding.Mesh(np.array(jax.devices()[:3]), "w"), P("w"))
for name, one in {"slope": on("x"), "bias": three}.items():
    said, shape = message(sharding=layout | {name: one}), values[name].shape
    assert said.startswith("ValueError " + name) and f"does not fit the shape {shape}" in said, said
lacking = message(sharding={"kernel": on(), "scale": on()})
assert lacking.startswith("CheckpointError ") and "differ at 3 leaves" in lacking, lacking
assert "+ only in sharding: scale\\n" in lacking and "bias (4,) float32" in lacking, lacking
assert "TypeError bias: got 'y'" in message(sharding=layout | {"bias": "y"})
"""


def test_sharded_arrays(tmp_path):
    process = _python(
        SHARDED,
        tmp_path / "a",
        check=False,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert process.returncode == 0, process.stderr


# What is no checkpoint, or not all of one.


def test_other_things_than_checkpoints(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        with pytest.raises(CheckpointError, match=f"{name} is no checkpoint"):
            restore(tmp_path / name)


def test_a_later_format(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(manifest, "_FORMAT", 3)
        save(tmp_path / "a", {"a": np.ones(2)})
    with pytest.raises(CheckpointError, match="of format 3 and this lcjax reads formats 1 and 2"):
        restore(tmp_path / "a")


KILLED = """
import os, sys, numpy as np
from lcjax.io.checkpoint import save
for name in ("rename", "replace"):
    setattr(os, name, lambda *_, **__: os._exit(9))
save(sys.argv[1], {"a": np.ones(100)})
"""


def test_a_save_that_is_killed_leaves_no_checkpoint(tmp_path):
    assert _python(KILLED, tmp_path / "a", check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name == "a.lcjax-unfinished"
    for path in (tmp_path / "a", left):
        with pytest.raises(CheckpointError, match="is incomplete .*: its save was interrupted"):
            restore(path)
    save(tmp_path / "a", {"a": np.zeros(2)})
    assert restore(tmp_path / "a")["a"].tolist() == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


PARTS = ["_CHECKPOINT_METADATA", "commit_success.txt", "state"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("read", [restore, read_metadata])
def test_a_missing_part(copy, part, read):
    shutil.rmtree(copy / part) if part == "state" else (copy / part).unlink()
    with pytest.raises(CheckpointError, match=rf"is incomplete \(missing: {part}\)"):
        read(copy)


# Damage.


DAMAGED = """
import json, pathlib, shutil, sys, jax, numpy as np
from lcjax.io.checkpoint import restore
from lcjax.io.manifest import CheckpointError

def flip(where):
    def damage(file):
        data = bytearray(file.read_bytes())
        data[int(where * (len(data) - 1))] ^= 0x04
        file.write_bytes(data)
    return damage

DAMAGE = {
    "removed": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    **{f"flipped at {where}": flip(where) for where in (0, 0.4, 0.8)},
}
saved, scratch = map(pathlib.Path, sys.argv[1:])
bits = lambda tree: jax.tree.map(lambda leaf: (leaf.dtype, np.asarray(leaf).tobytes()), tree)
whole = bits(restore(saved))
files = [file.relative_to(saved) for file in saved.rglob("*") if file.is_file()]
outcomes = {name: {} for name in DAMAGE}
for name, damage in DAMAGE.items():
    for file in files:
        if (saved / file).stat().st_size == 0:
            continue
        copy = shutil.copytree(saved, scratch / "copy")
        damage(copy / file)
        try:
            outcome = "harmless" if bits(restore(copy)) == whole else "WRONG"
        except CheckpointError as error:
            outcome = str(error)
        outcomes[name]["/" + str(file)] = outcome
        shutil.rmtree(copy)
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(saved, tmp_path_factory):
    """What restore says to every file damaged in every way.

    In a process of its own, because reads that orbax abandons at the first error end later, in
    threads, with errors that nobody can catch.
    """
    return json.loads(_python(DAMAGED, saved, tmp_path_factory.mktemp("damaged")).stdout)


FLIPS = [f"flipped at {where}" for where in (0, 0.4, 0.8)]


@pytest.mark.parametrize("damage", ["removed", "emptied", "truncated", *FLIPS])
def test_damage_anywhere_is_seen_or_harmless(outcomes, damage):
    """Files that orbax writes for its own sake may go; the others may not."""
    assert "WRONG" not in outcomes[damage].values()
    seen = {name for name, outcome in outcomes[damage].items() if outcome != "harmless"}
    assert seen >= {"/_CHECKPOINT_METADATA", "/state/manifest.ocdbt"}
    assert any(name.startswith("/state/d/") for name in seen)
    assert any(name.startswith("/state/ocdbt.process_0/d/") for name in seen)
    said = "is damaged|is incomplete" if damage == "removed" else "is damaged"
    assert all(re.search(said, outcomes[damage][name]) for name in seen)


def test_the_arrays_data_is_verified_bit_by_bit(tmp_path):
    """Random bits do not compress, so nearly every byte of the largest file is a byte of a leaf."""
    tree = {"kernel": _random("float32", (64, 64))}
    save(tmp_path / "a", tree)
    data = max((tmp_path / "a").rglob("d/*"), key=lambda file: file.stat().st_size)
    whole = data.read_bytes()
    for where in np.linspace(0.05, 0.95, 7):
        flipped = bytearray(whole)
        flipped[int(where * len(whole))] ^= 0x04
        data.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="is damaged: kernel is not what was saved"):
            restore(tmp_path / "a")
        data.write_bytes(whole)
    assert _bits(restore(tmp_path / "a")) == _bits(tree)


def _edit(path, change):
    file = path / "_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    change(content["custom_metadata"]["lcjax"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["leaves"].pop(),
        lambda manifest: manifest["leaves"][0].update(dtype="int32"),
        lambda manifest: manifest["leaves"][0].update(crc32=0),
        lambda manifest: manifest["metadata"].update(accuracy=0.99),
        lambda manifest: manifest.update(format=0),
    ],
)
@pytest.mark.parametrize("read", [restore, read_metadata])
def test_an_edited_manifest(copy, change, read):
    _edit(copy, change)
    with pytest.raises(CheckpointError, match="is damaged: its manifest is not what was written"):
        read(copy)
