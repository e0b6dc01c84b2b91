"""Paths: whatever `save` and its like write to, restores; the rest they refuse before writing."""

import json
import os
import string

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax.cli.inspection import inspect_checkpoint
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.streaming import collapse_checkpoint
from train.engine.checkpoints import Snapshots

TREE = {
    "dense_0": {"kernel": np.ones((2, 4), np.float32)},
    "act_0": {"slope": np.ones((), np.float32)},
    "dense_1": {"kernel": np.ones((4, 2), np.float32)},
}
PATTERNS = [
    *["x[0]", "[a]", "x[", "x]", "x[]", "[!a]", "{a,b}", "x*", "x?", "a**b", "**/**"],
    *["lr=[1,2],wd=0.1/out", "train[0]/deep/er", "~", "~x", "$HOME", "%20", "%2F", "a b/c d"],
    *["κλειδί-🔑", " ", "-x", "state", "_CHECKPOINT_METADATA", "lock", "x.tmp", "file:x"],
    *["y.partial_save/z", "a.orbax-checkpoint-tmp/b"],
]
LEGAL = sorted(set(string.printable) - set("/\\."))


def goes_round(path):
    save(path, {"w": np.arange(3)}, metadata={"a": 1})
    assert restore(path)["w"].tolist() == [0, 1, 2]
    assert read_metadata(path) == {"a": 1} and "leaves" in str(inspect_checkpoint(path))


@pytest.mark.slow
@pytest.mark.parametrize("character", [*LEGAL, "\x01", "\x7f", "ü", "\u202e"])
def test_save_path_with_any_character(tmp_path, character):
    goes_round(tmp_path / f"run{character}3")
    assert [path.name for path in tmp_path.iterdir()] == [f"run{character}3"]


@pytest.mark.parametrize("name", PATTERNS)
def test_save_path_with_pattern(tmp_path, name):
    goes_round(tmp_path / name)
    renamed = tmp_path / name
    renamed.rename(tmp_path / "plain")
    assert restore(tmp_path / "plain")["w"].tolist() == [0, 1, 2]
    like = {"w": np.zeros(3, np.int64)}
    loaded = ocp.load(tmp_path / "plain", like, checkpointable_name="state")
    assert loaded["w"].tolist() == [0, 1, 2]


def test_restore_pattern_ignores_siblings(tmp_path):
    save(tmp_path / "run1", {"w": np.zeros(3)})
    save(tmp_path / "run?", {"w": np.ones(3)})
    assert restore(tmp_path / "run?")["w"].tolist() == [1, 1, 1]
    assert restore(tmp_path / "run1")["w"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["c[0]", "lr=[1,2]/**/out"])
def test_collapse_checkpoint_under_pattern(tmp_path, name):
    save(tmp_path / "in[1]", TREE)
    collapse_checkpoint(tmp_path / "in[1]", tmp_path / name)
    compact = lcjax.collapse(TREE)[0]
    np.testing.assert_array_equal(
        restore(tmp_path / name)["dense_1"]["kernel"], compact["dense_1"]["kernel"]
    )


def test_export_external_weights_under_pattern(tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    x, path = jnp.ones((1, 3)), tmp_path / "e[0]"
    variables = {"w": jnp.ones((3, 2))}
    lcjax.export(
        lambda v, x: x @ v["w"], variables, [x], path, weights="external", platforms=["cpu"]
    )
    np.testing.assert_array_equal(lcjax.load_exported(path)(x), [[3, 3]])


@pytest.mark.parametrize("name", ["lr=[1,2]", "a**b", "x?"])
def test_snapshots_under_pattern(tmp_path, name):
    state = {"step": jnp.int32(3), "w": jnp.ones(2)}
    with Snapshots(tmp_path / name) as snapshots:
        for step in (1, 2, 3):
            snapshots.save(step, state)
    with Snapshots(tmp_path / name) as snapshots:
        assert int(snapshots.restore(like=state)["step"]) == 3
    assert int(restore(tmp_path / name / "checkpoints" / "3")["step"]) == 3


@pytest.mark.parametrize("bytes_", [200, 236, 237, 254, 255])
def test_save_long_names(tmp_path, bytes_):
    goes_round(tmp_path / ("x" * bytes_))
    goes_round(tmp_path / ("ü" * (bytes_ // 2)))


def test_save_file_urls(tmp_path):
    save(f"file://{tmp_path}/a%20b", {"w": np.ones(1)})
    assert (tmp_path / "a b").is_dir()
    assert restore(f"file://localhost{tmp_path}/a%20b")["w"].tolist() == [1]
    for url in ("file://host/a", "file://a", "file://", f"file://{tmp_path}/a?b"):
        with pytest.raises(ValueError, match="expected file:/// and an absolute path"):
            save(url, TREE)


REFUSED = [
    ("a\0b", ValueError, "without a NUL character"),
    ("", ValueError, "path: got an empty string"),
    ("a\\b", ValueError, "a backslash, which TensorStore treats as a slash"),
    ("x\\/ckpt", ValueError, "a backslash"),
    ("\udcff", ValueError, "expected UTF-8"),
    ("x.orbax-checkpoint-tmp", ValueError, "which marks unfinished checkpoints"),
    ("x.partial_save", ValueError, "which marks"),
    ("x.lcjax-unfinished", ValueError, "which marks"),
    ("x" * 256, OSError, "File name too long"),
    ("x.orbax-checkpoint-tmp-9", ValueError, "which marks"),
    (b"bytes", TypeError, "path is a bytes; expected the name"),
    ({"w": np.ones(2)}, TypeError, r"path is a dict; .*save\(path, tree\)"),
    (None, TypeError, "path is .*None.*; expected the name"),
    (3, TypeError, "path is an int; expected the name"),
]


@pytest.mark.parametrize(("path", "error", "said"), REFUSED)
def test_save_rejects_invalid_paths(tmp_path, monkeypatch, path, error, said):
    monkeypatch.chdir(tmp_path)
    save("source", TREE)
    for write in (
        lambda: save(path, {"w": np.ones(2)}),
        lambda: collapse_checkpoint("source", path),
    ):
        with pytest.raises(error, match=said):
            write()
        assert os.listdir() == ["source"]


def test_restore_takes_paths_literally(tmp_path):
    r"""TensorStore takes the backslash for a slash, and would find nothing, or another's."""
    save(tmp_path / "ab", {"w": np.ones(2)})
    os.rename(tmp_path / "ab", tmp_path / "a\\b")
    with pytest.raises(ValueError, match="rename the directory"):
        restore(tmp_path / "a\\b")


def test_save_verifies_by_reading_back(tmp_path, monkeypatch):
    """As orbax left it, without an error, where its pattern matched nothing."""
    real = ocp.save

    def unmerged(path, *arguments, **options):
        real(path, *arguments, **options)
        (path / "state" / "manifest.ocdbt").unlink()

    monkeypatch.setattr(ocp, "save", unmerged)
    with pytest.raises(OSError, match="was not saved: it cannot be read back"):
        save(tmp_path / "a", {"w": np.ones(2)})
    assert not any(tmp_path.iterdir())


def test_manifest_is_plain_json(tmp_path):
    save(tmp_path / "a", TREE)
    record = json.loads((tmp_path / "a" / "_CHECKPOINT_METADATA").read_text())
    assert record["custom_metadata"]["lcjax"]["format"] == 2
