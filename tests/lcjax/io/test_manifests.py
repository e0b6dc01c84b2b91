"""Manifests that were written to mislead: sealed, so that only their values tell."""

import json
import shutil

import jax
import numpy as np
import pytest

from lcjax.cli.inspection import inspect_checkpoint
from lcjax.errors import CheckpointError, CollapseError
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.manifest_schema import checksum
from lcjax.io.streaming import collapse_checkpoint

TREE = {
    "params": {
        "dense_0": {"kernel": np.ones((3, 5), np.float32)},
        "act_0": {"slope": np.ones((), np.float32)},
        "dense_1": {"kernel": np.ones((5, 2), np.float32)},
    },
    "list": [np.arange(3), (), np.ones(2)],
    "empty": {},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("manifests") / "saved"
    save(path, TREE, metadata={"note": "a"})
    return path


def lie(saved, path, change):
    """A copy whose manifest is changed, and sealed again."""
    shutil.copytree(saved, path)
    file = path / "_CHECKPOINT_METADATA"
    record = json.loads(file.read_text())
    sealed = record["custom_metadata"]
    changed = change(sealed["lcjax"])
    manifest = sealed["lcjax"] if changed is None else changed
    record["custom_metadata"] = {"lcjax": manifest, "crc32": checksum(manifest)}
    file.write_text(json.dumps(record))
    return path


def leaf(**values):
    return lambda manifest: manifest["leaves"][0].update(values)


def value(name, of):
    return lambda manifest: manifest.update({name: of})


def without(name):
    return lambda manifest: manifest.pop(name) and None


def container(*pair):
    return lambda manifest: manifest["containers"].append(list(pair))


def more(path, **values):
    plain = {"path": path, "shape": [2], "dtype": "float32", "crc32": 0}
    return lambda manifest: manifest["leaves"].append(plain | values)


def deep(levels):
    tree = []
    for _ in range(levels):
        tree = [tree]
    return tree


ODD = [None, True, -1, 2**70, 1.5, "text", "", {}, {"a": 1}, [], [[]], [None], ["x"], deep(50)]
LIES = {
    **{f"manifest {odd!r:.20}": (lambda m, odd=odd: odd) for odd in ODD if odd is not None},
    **{
        f"{name} {odd!r:.20}": value(name, odd)
        for name in ("format", "lcjax", "leaves", "containers", "metadata")
        for odd in ODD
        if (name, odd) not in [("lcjax", "text"), ("lcjax", ""), ("metadata", {"a": 1})]
        and (name, odd) not in [("metadata", {})]
    },
    **{f"no {name}": without(name) for name in ("format", "lcjax", "leaves", "metadata")},
    "no containers": without("containers"),
    **{
        f"leaf {name} {odd!r:.20}": leaf(**{name: odd})
        for name in ("path", "shape", "dtype", "crc32")
        for odd in ODD
        if (name, odd) not in [("crc32", None), ("shape", [])]
    },
    "no leaf's path": lambda m: m["leaves"][0].pop("path") and None,
    "a leaf that is a list": lambda m: m["leaves"].append([1]),
    "an index of a thousand million": leaf(path=["list", 10**9]),
    "one at the root": leaf(path=[10**9]),
    "another leaf's path": lambda m: m["leaves"][0].update(path=m["leaves"][1]["path"]),
    "below a leaf": more(["params", "dense_0", "kernel", "x"]),
    "a leaf that is missing": more(["params", "x"]),
    "in a list": more(["list", "x"]),
    "behind a list": more(["list", 9]),
    "300 levels": more(["a"] * 300),
    "a huge shape": leaf(shape=[2**40, 2**40]),
    "a shape of many axes": leaf(shape=[1] * 100),
    "a shape of 2 ** 40": leaf(shape=[2**40]),
    "another shape": leaf(shape=[1, 1]),
    "an object dtype": leaf(dtype="object"),
    "a string dtype": leaf(dtype="<U9"),
    "another dtype": leaf(dtype="float64"),
    "a wrong checksum": leaf(crc32=5),
    "a slope of another shape": lambda m: (
        [one.update(shape=[7]) for one in m["leaves"] if one["path"][-1] == "slope"] and None
    ),
    "a kernel without axes": lambda m: (
        [one.update(shape=[]) for one in m["leaves"] if one["path"][-1] == "kernel"] and None
    ),
    "a container of another kind": container(["params"], "set"),
    "a list with keys": container(["params"], "list"),
    "a variable of three": container(["params"], "variable"),
    "None that holds leaves": container(["params"], "none"),
    "a leaf that is a list too": container(["params", "dense_0", "kernel"], "list"),
    "a container at 10 ** 9": container(["list", 10**9], "dict"),
    "no kind": container(["x"]),
    "a container below a leaf": container(["params", "dense_0", "kernel", "x"], "dict"),
    "an empty variable": container(["x"], "variable"),
    "format 1 without empty": value("format", 1),
}


@pytest.mark.parametrize("name", LIES)
def test_restore_rejects_forged_manifest(saved, tmp_path, name):
    path = lie(saved, tmp_path / "lies", LIES[name])
    with pytest.raises(CheckpointError, match=r"lies is (damaged|incomplete)|lies: got format"):
        restore(path)
    for read in (read_metadata, inspect_checkpoint, lambda p: collapse_checkpoint(p, f"{p}-out")):
        try:
            read(path)
        except (CheckpointError, CollapseError):
            pass
    assert {one.name for one in tmp_path.iterdir()} <= {"lies", "lies-out"}


def test_restore_format_1(saved, tmp_path):
    def old(manifest):
        manifest |= {"format": 1, "empty": [["empty"]]}
        manifest.pop("containers")
        return manifest

    restored = restore(lie(saved, tmp_path / "old", old))
    assert restored["empty"] == {} and restored["list"][1] is None
    assert jax.tree.structure(restored["params"]) == jax.tree.structure(TREE["params"])

    def sparse(manifest):
        old(manifest)["leaves"].append(
            {"path": ["list", 10**9], "shape": [2], "dtype": "float32", "crc32": 0}
        )

    with pytest.raises(CheckpointError, match="got a list with keys or gaps"):
        restore(lie(saved, tmp_path / "sparse", sparse))


def test_restore_rejects_long_record(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    with open(copy / "_CHECKPOINT_METADATA", "r+b") as file:
        file.truncate(2**27)
    with pytest.raises(CheckpointError, match="got 134,217,728 bytes, expected at most"):
        restore(copy)


def test_save_rejects_long_manifest(tmp_path):
    with pytest.raises(ValueError, match="bytes of 1 leaves and metadata, expected at most"):
        save(tmp_path / "a", {"a": np.ones(2)}, metadata={"note": "x" * 2**26})
    assert not any(tmp_path.iterdir())


ESCAPES = "\x1b[2J\x9b31m\u202e\r\x07"


def test_inspect_escapes_control_codes(tmp_path, capsys):
    from lcjax.cli.command import main

    save(tmp_path / "a", {f"k{ESCAPES}": np.ones(2)}, metadata={"note": ESCAPES})
    main(["inspect", str(tmp_path / "a")])
    shown = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert r"\x1b[2J" in shown or r"\u001b[2J" in shown
    with pytest.raises(CheckpointError) as error:
        restore(tmp_path / "a", like={"b": np.ones(2)})
    assert all(one.isprintable() or one == "\n" for one in str(error.value))
