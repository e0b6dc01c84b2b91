"""Checkpoints of others: read where they can be, named where not, and never to be deleted."""

import logging
import shutil
import warnings
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as v0
import pytest
from flax.training import checkpoints as flax_checkpoints
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax.cli.command import main
from train.engine.checkpoints import Snapshots

TREE = {
    "params": {
        "dense_0": {"kernel": jnp.ones((3, 5)), "bias": jnp.arange(5.0)},
        "act_0": {"slope": jnp.float32(1)},
        "dense_1": {"kernel": jnp.ones((5, 2), jnp.bfloat16)},
    },
    "list": [jnp.ones(2), np.float64(3)],
    "step": 3,
}


@pytest.fixture(autouse=True)
def absl_as_it_was():
    level = logging.getLogger("absl").level
    yield
    logging.getLogger("absl").setLevel(level)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A checkpoint by each of orbax's classes, by Flax and by a run of lcjax's."""
    here = tmp_path_factory.mktemp("others")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of theirs
        standard = v0.StandardCheckpointer()
        standard.save(here / "standard", TREE)
        standard.wait_until_finished()
        v0.PyTreeCheckpointer().save(here / "pytree", TREE)
        manager = v0.CheckpointManager(here / "manager")
        manager.save(0, args=v0.args.StandardSave(TREE))
        manager.wait_until_finished()
        two = v0.CheckpointManager(here / "two")
        both = dict(p=v0.args.StandardSave(TREE), q=v0.args.StandardSave(TREE))
        two.save(0, args=v0.args.Composite(**both, j=v0.args.JsonSave({"a": 1})))
        two.wait_until_finished()
        flax_checkpoints.save_checkpoint(here / "flax", TREE, step=1)
        flax.config.update("flax_use_orbax_checkpointing", False)
        try:
            flax_checkpoints.save_checkpoint(here / "old_flax", TREE, step=1)
        finally:
            flax.config.update("flax_use_orbax_checkpointing", True)
    ocp.save(here / "orbax", TREE)
    ocp.save(here / "noted", TREE, custom_metadata={"lcjax": 1})
    ocp.save_checkpointables(here / "several", {"a": TREE, "b": TREE})
    lcjax.save(here / "own", TREE)
    with Snapshots(here / "run") as snapshots:
        snapshots.save(7, jax.tree.map(jnp.asarray, TREE), score=1.0)
    (here / "directory").mkdir()
    (here / "file").write_text("text")
    (here / "weights.safetensors").write_text("text")
    return here


READ = """standard pytree manager/0 manager/0/default two/0/p flax/checkpoint_1 orbax orbax/state
noted several/a own own/state run/checkpoints/7 run/checkpoints/7/state""".split()


@pytest.mark.parametrize("name", READ)
def test_restore_checkpoints_of_orbax(others, tmp_path, capsys, name):
    restored = lcjax.restore(others / name)
    assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(TREE), strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    main(["inspect", str(others / name)])
    shown = capsys.readouterr().out
    own = name.startswith(("own", "run"))
    assert ("written by  lcjax" if own else "written by  orbax, without checksums") in shown
    assert "act_0" in shown
    main(["collapse", str(others / name), str(tmp_path / "out")])
    kernel = lcjax.restore(tmp_path / "out")["params"]["dense_1"]["kernel"]
    np.testing.assert_array_equal(
        kernel, lcjax.collapse(restored)[0]["params"]["dense_1"]["kernel"]
    )


@pytest.mark.parametrize("name", ["standard", "manager/0", "run/checkpoints/7"])
def test_restore_checkpoints_of_orbax_like_a_tree(others, name):
    like = {"params": jax.tree.map(jnp.zeros_like, TREE["params"])}
    with pytest.raises(lcjax.CheckpointError, match="differ at 3 leaves"):
        lcjax.restore(others / name, like=like)
    whole = lcjax.restore(others / name)
    assert jax.tree.structure(lcjax.restore(others / name, like=whole)) == jax.tree.structure(TREE)


NAMED = [
    ("manager", "a directory of 1 checkpoints; give the path of one: .*manager/0"),
    ("two/0", "a checkpoint of several trees, p, q; give the path of one, such as .*two/0/p"),
    ("two/0/j", "is not a checkpoint"),
    ("several", "a checkpoint of several trees, a, b"),
    ("flax", "give the path of one: .*flax/checkpoint_1"),
    ("old_flax", r"it contains files: if flax.training.checkpoints wrote it, read it with restore"),
    ("old_flax/checkpoint_1", "it is a file, .* if flax.training.checkpoints wrote it"),
    ("run", "give the path of one: .*run/checkpoints/7"),
    ("run/checkpoints", "give the path of one: .*run/checkpoints/7"),
    ("directory", "it has no state, no _CHECKPOINT_METADATA"),
    ("file", "it is a file, expected a directory"),
    ("weights.safetensors", "it is a safetensors file"),
]


@pytest.mark.parametrize(("name", "said"), NAMED)
def test_restore_names_unreadable_formats(others, name, said):
    for read in (lcjax.restore, lcjax.read_metadata):
        with pytest.raises(lcjax.CheckpointError, match=said):
            read(others / name)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(others / name)])
    assert "elete" not in str(end.value.code)


def test_inspect_checkpoint_of_bare_array(tmp_path, capsys):
    ocp.save(tmp_path / "a", np.ones(3))
    main(["inspect", str(tmp_path / "a")])
    assert "no sites" in capsys.readouterr().out


def test_restore_rejects_leaves_of_orbax_without_arrays(tmp_path):
    ocp.save(tmp_path / "a", {"a": np.ones(2), "name": "text"})
    with pytest.raises(lcjax.CheckpointError, match="name: got str, expected an array of numbers"):
        lcjax.restore(tmp_path / "a")


def test_damaged_orbax_checkpoint_message(others, tmp_path):
    copy = shutil.copytree(others / "standard", tmp_path / "copy")
    (copy / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(lcjax.CheckpointError, match="cannot be read") as error:
        lcjax.restore(copy)
    assert "elete" not in str(error.value)


def test_no_message_advises_deletion():
    for file in Path(lcjax.__file__).parent.rglob("*.py"):
        assert "elete it" not in file.read_text(), file
