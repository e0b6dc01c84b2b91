"""Restores with `like` and `sharding`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from jax.sharding import SingleDeviceSharding

from lcjax.errors import CheckpointError
from lcjax.io.checkpoint import restore, save
from tests.lcjax.io.checkpoints import bits, example_tree, random_array, run_python

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
def test_restore_like_containers(tmp_path, convert):
    tree = {
        "params": {"dense": {"kernel": jnp.asarray(random_array("float32", (4, 3)))}},
        "stats": {},
    }
    like = convert(tree)
    save(tmp_path / "a", tree)
    restored = restore(tmp_path / "a", like=like)
    assert jax.tree.structure(restored) == jax.tree.structure(like)
    assert bits(restored) == bits(tree)


def test_restore_like_boxes(tmp_path):
    kernel = jnp.asarray(random_array("float32", (4, 3)))
    boxed = {"dense": {"kernel": nn.Partitioned(kernel, ("in", "out")), "bias": jnp.ones(3)}}
    plain = {"dense": {"kernel": kernel, "bias": jnp.ones(3)}}
    save(tmp_path / "a", boxed)
    assert bits(restore(tmp_path / "a")) == bits(plain)
    for like in (boxed, jax.eval_shape(lambda: boxed)):
        restored = restore(tmp_path / "a", like=like)
        assert restored["dense"]["kernel"].names == ("in", "out")
        assert bits(nn.unbox(restored)) == bits(plain)


def test_restore_like_lists_differences(copy):
    like = example_tree()
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


def test_restore_like_truncates_long_diff(copy):
    with pytest.raises(CheckpointError, match="differ at 45 leaves") as error:
        restore(copy, like={f"dense_{i}": np.ones(1) for i in range(40)})
    lines = str(error.value).splitlines()
    assert lines[10:13] == [f"+ only in like: dense_{i} (1,) float64" for i in (9, 10, 11)]
    assert lines[21:] == ["... and 25 more", "Give a like with the checkpoint's leaves, or none."]


def test_restore_commits_only_requested_shardings(saved):
    tree, device = example_tree(), jax.devices()[0]
    assert not restore(saved)["params"]["block_10"]["kernel"].committed
    assert not restore(saved, like=tree)["params"]["block_10"]["kernel"].committed
    like = jax.tree.map(lambda leaf: jax.device_put(leaf, device), tree["params"])
    restored = restore(saved, like=tree | {"params": like})
    assert restored["params"]["block_10"]["kernel"].committed
    everywhere = restore(saved, sharding=SingleDeviceSharding(device))
    assert everywhere["params"]["block_10"]["slope"].committed
    assert bits(everywhere) == bits(tree)  # float64 stays in NumPy


SHARDED = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lcjax.io.checkpoint import restore, save
from lcjax.errors import CheckpointError
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
    fits = f"expected a sharding that fits the shape {shape}"
    assert said.startswith("ValueError " + name) and fits in said, said
lacking = message(sharding={"kernel": on(), "scale": on()})
assert lacking.startswith("CheckpointError ") and "differ at 3 leaves" in lacking, lacking
assert "+ only in sharding: scale\\n" in lacking and "bias (4,) float32" in lacking, lacking
assert "TypeError bias: got 'y'" in message(sharding=layout | {"bias": "y"})
"""


@pytest.mark.slow
def test_save_restore_sharded_arrays(tmp_path):
    process = run_python(
        SHARDED,
        tmp_path / "a",
        check=False,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert process.returncode == 0, process.stderr
