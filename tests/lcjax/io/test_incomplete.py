"""Checkpoints that are incomplete, damaged, edited or of another kind."""

import json
import re
import shutil

import numpy as np
import pytest

from lcjax.errors import CheckpointError
from lcjax.io import manifest
from lcjax.io.checkpoint import read_metadata, restore, save
from tests.lcjax.io.checkpoints import bits, random_array, run_python

# What is not a checkpoint, or not all of one.


def test_restore_rejects_other_files(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        with pytest.raises(CheckpointError, match=f"{name} is not a checkpoint"):
            restore(tmp_path / name)


def test_restore_rejects_later_format(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(manifest, "_FORMAT", 3)
        save(tmp_path / "a", {"a": np.ones(2)})
    with pytest.raises(CheckpointError, match="got format 3, expected at most 2"):
        restore(tmp_path / "a")


KILLED = """
import os, sys, numpy as np
from lcjax.io.checkpoint import save
for name in ("rename", "replace"):
    setattr(os, name, lambda *_, **__: os._exit(9))
save(sys.argv[1], {"a": np.ones(100)})
"""


def test_killed_save_leaves_no_checkpoint(tmp_path):
    assert run_python(KILLED, tmp_path / "a", check=False).returncode == 9
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
def test_restore_rejects_missing_part(copy, part, read):
    shutil.rmtree(copy / part) if part == "state" else (copy / part).unlink()
    with pytest.raises(CheckpointError, match=rf"is incomplete \(missing: {part}\)"):
        read(copy)


# Damage.


DAMAGED = """
import json, pathlib, shutil, sys, jax, numpy as np
from lcjax.io.checkpoint import restore
from lcjax.errors import CheckpointError

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
    return json.loads(run_python(DAMAGED, saved, tmp_path_factory.mktemp("damaged")).stdout)


FLIPS = [f"flipped at {where}" for where in (0, 0.4, 0.8)]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["removed", "emptied", "truncated", *FLIPS])
def test_restore_detects_damage_in_any_file(outcomes, damage):
    """Files that orbax writes for its own sake may go; the others may not."""
    assert "WRONG" not in outcomes[damage].values()
    seen = {name for name, outcome in outcomes[damage].items() if outcome != "harmless"}
    assert seen >= {"/_CHECKPOINT_METADATA", "/state/manifest.ocdbt"}
    assert any(name.startswith("/state/d/") for name in seen)
    assert any(name.startswith("/state/ocdbt.process_0/d/") for name in seen)
    said = "is damaged|is incomplete" if damage == "removed" else "is damaged"
    assert all(re.search(said, outcomes[damage][name]) for name in seen)


def test_restore_detects_every_flipped_bit(tmp_path):
    """Random bits do not compress, so nearly every byte of the largest file is a byte of a leaf."""
    tree = {"kernel": random_array("float32", (64, 64))}
    save(tmp_path / "a", tree)
    data = max((tmp_path / "a").rglob("d/*"), key=lambda file: file.stat().st_size)
    whole = data.read_bytes()
    for where in np.linspace(0.05, 0.95, 7):
        flipped = bytearray(whole)
        flipped[int(where * len(whole))] ^= 0x04
        data.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="is damaged: kernel differs from what was saved"):
            restore(tmp_path / "a")
        data.write_bytes(whole)
    assert bits(restore(tmp_path / "a")) == bits(tree)


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
def test_restore_rejects_edited_manifest(copy, change, read):
    _edit(copy, change)
    with pytest.raises(CheckpointError, match="damaged: its manifest differs from what was saved"):
        read(copy)
