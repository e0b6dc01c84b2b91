"""Checkpoints damaged in every way: each is refused by one error, or comes back bit for bit."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.io.checkpoint import save

DAMAGED = """
import json, logging, os, pathlib, shutil, sys
import jax, numpy as np
from lcjax.io.checkpoint import restore
from lcjax.errors import CheckpointError

logging.disable(logging.CRITICAL)
saved, other, scratch = map(pathlib.Path, sys.argv[1:4])

def edited(change):
    def damage(file):
        data = bytearray(file.read_bytes())
        file.write_bytes(change(data))
    return damage

def flip(where, bit):
    def change(data):
        data[int(where * (len(data) - 1))] ^= bit
        return data
    return edited(change)

def instead(make):
    def damage(file):
        file.unlink()
        make(file)
    return damage

def swapped(file):
    files = sorted(one for one in file.parent.iterdir() if one.is_file() and one != file)
    if files:
        content, others = file.read_bytes(), files[0].read_bytes()
        files[0].write_bytes(content)
        file.write_bytes(others)

def of_another(file):
    for one in other.rglob(file.name):
        if one.is_file():
            shutil.copyfile(one, file)

DAMAGE = {
    "removed": lambda file: file.unlink(),
    "emptied": edited(lambda data: b""),
    "halved": edited(lambda data: data[: len(data) // 2]),
    "a byte short": edited(lambda data: data[:-1]),
    "its end alone": edited(lambda data: data[len(data) // 2 :]),
    "longer": edited(lambda data: data + data[:7]),
    "twice": edited(lambda data: data + data),
    "zeros": edited(lambda data: bytes(len(data))),
    "ones": edited(lambda data: bytes([255]) * len(data)),
    "nested": edited(lambda data: b"[" * 5000),
    "a list": edited(lambda data: b"[1]"),
    "an object": edited(lambda data: b"{}"),
    "null": edited(lambda data: b"null"),
    "no text": edited(lambda data: bytes([0, 255, 254, 128]) * 9),
    "a directory": instead(lambda file: file.mkdir()),
    "a broken link": instead(lambda file: file.symlink_to("nothing")),
    "a link to itself": instead(lambda file: file.symlink_to(file.name)),
    "swapped": swapped,
    "of another": of_another,
    **{f"flip {bit} at {where}": flip(where, bit)
       for where in (0, 0.2, 0.4, 0.6, 0.8, 1) for bit in (1, 4, 128)},
}
names = sys.argv[4:] or list(DAMAGE)
bits = lambda tree: jax.tree.map(lambda leaf: (leaf.dtype, np.asarray(leaf).tobytes()), tree)
whole = bits(restore(saved))
files = [file.relative_to(saved) for file in saved.rglob("*") if file.is_file()]
outcomes = {name: {} for name in names}
for name in names:
    for file in files:
        if (saved / file).stat().st_size == 0 and name != "removed":
            continue
        copy = shutil.copytree(saved, scratch / "copy")
        DAMAGE[name](copy / file)
        try:
            outcome = "harmless" if bits(restore(copy)) == whole else "WRONG"
        except CheckpointError as error:
            outcome = "refused"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes[name][str(file)] = outcome
        shutil.rmtree(copy)
print(json.dumps(outcomes))
"""
WAYS = [*"""removed emptied halved longer twice zeros ones nested null swapped""".split(),
        "a byte short", "its end alone", "a list", "an object", "no text", "a directory",
        "a broken link", "a link to itself", "of another"]  # fmt: skip
FLIPS = [f"flip {bit} at {where}" for where in (0, 0.2, 0.4, 0.6, 0.8, 1) for bit in (1, 4, 128)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What restore does with every file damaged in every way.

    In a process of its own, because reads that orbax abandons at the first error end later, in
    threads, with errors that nobody can catch.
    """
    directory = tmp_path_factory.mktemp("damage")
    draw = np.random.default_rng(0)
    for name in ("saved", "other"):
        tree = {
            "params": {"kernel": jnp.asarray(draw.normal(size=(40, 32)), jnp.float32)},
            "half": jnp.asarray(draw.normal(size=(4, 3)), jnp.bfloat16),
            "list": [np.arange(3) + draw.integers(9), None, (jnp.float32(draw.normal()),)],
            "empty": {},
        }
        save(directory / name, tree, metadata={"name": name})
    command = [sys.executable, "-c", DAMAGED, directory / "saved", directory / "other", directory]
    process = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("damage", WAYS + FLIPS)
def test_restore_rejects_damage_with_one_error(outcomes, damage):
    odd = {
        file: outcome
        for file, outcome in outcomes[damage].items()
        if outcome not in ("refused", "harmless")
    }
    assert not odd
    if damage not in ("longer", "of another") and not damage.startswith("flip"):
        assert outcomes[damage]["_CHECKPOINT_METADATA"] == "refused"
