"""Checkpoints of a run: bit for bit back, the latest whole one, no trace of an interrupted save."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from lcjax import CheckpointError, restore, with_linearity_penalty
from tests.helpers.runs import same_bits
from train.engine.checkpoints import Snapshots
from train.engine.loop import TrainState

TX = with_linearity_penalty(optax.adam(1e-3), strength=0.1)


def state(seed=0, step=0):
    rng = np.random.default_rng(seed)
    params = {
        "mlp": {
            "act_0": {"slope": jnp.float32(rng.normal())},
            "kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.bfloat16),
        }
    }
    stats = {"batch_stats": {"mean": jnp.asarray(rng.normal(size=3), jnp.float32)}}
    fresh = TrainState.create({"params": params, **stats}, TX)
    updates, opt_state = TX.update(params, fresh.opt_state, params)
    return TrainState(jnp.int32(step), optax.apply_updates(params, updates), stats, opt_state)


@pytest.mark.promotes
def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    with Snapshots(tmp_path) as snapshots:
        assert snapshots.restore(like=state()) is None


@pytest.mark.promotes
def test_a_state_comes_back_bit_for_bit_in_its_own_containers(tmp_path):
    with Snapshots(tmp_path) as snapshots:
        snapshots.save(3, state(1, step=3))
    with Snapshots(tmp_path) as snapshots:
        back = snapshots.restore(like=state())
    assert isinstance(back, TrainState)
    same_bits(back, state(1, step=3))


@pytest.mark.promotes
def test_the_latest_is_restored_and_the_last_two_are_kept(tmp_path):
    with Snapshots(tmp_path) as snapshots:
        for step in (8, 9, 10):
            snapshots.save(step, state(step, step))
    with Snapshots(tmp_path) as snapshots:
        same_bits(snapshots.restore(like=state()), state(10, 10))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "9"]


@pytest.mark.promotes
def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    held, want = state(1), state(1)
    change = jax.jit(lambda leaf: 0 * leaf, donate_argnums=0)
    with Snapshots(tmp_path) as snapshots:
        snapshots.save(1, held)
        for leaf in jax.tree.leaves(held.params):
            # JAX copies, and deletes nothing, for as long as orbax's thread looks at the buffer.
            for _ in range(100_000):
                jax.block_until_ready(change(leaf))
                if leaf.is_deleted():
                    break
            assert leaf.is_deleted()
    with Snapshots(tmp_path) as snapshots:
        same_bits(snapshots.restore(like=state()), want)


@pytest.mark.promotes
def test_lcjax_restores_a_snapshot_and_knows_what_it_is(tmp_path):
    with Snapshots(tmp_path) as snapshots:
        snapshots.save(3, state(1, step=3))
    back = restore(tmp_path / "checkpoints" / "3")
    same_bits(back["params"], state(1, step=3).params)
    assert set(back) == {"step", "params", "stats", "opt_state"}


def _flip(file, where):
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x04
    file.write_bytes(data)


def test_no_flipped_byte_of_the_arrays_goes_unseen(tmp_path):
    """Random bits do not compress, so nearly every byte of the largest file is one of a leaf."""
    big = {"step": jnp.int32(2), "w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)))}
    with Snapshots(tmp_path / "run") as snapshots:
        snapshots.save(1, big)
        snapshots.save(2, big)
    step = tmp_path / "run" / "checkpoints" / "2"
    data = max(step.rglob("d/*"), key=lambda file: file.stat().st_size)
    whole = data.read_bytes()
    for where in np.linspace(0.05, 0.95, 15):
        _flip(data, where)
        with Snapshots(tmp_path / "run") as snapshots:
            with pytest.raises(
                CheckpointError, match="continue from step 1, move .*checkpoints/2 "
            ):
                snapshots.restore(like=big)
        data.write_bytes(whole)
    with Snapshots(tmp_path / "run") as snapshots:
        same_bits(snapshots.restore(like=big), big)
    step.rename(tmp_path / "moved")
    with Snapshots(tmp_path / "run") as snapshots:
        same_bits(snapshots.restore(like=big), big)


@pytest.mark.promotes
def test_a_snapshot_without_checksums_is_still_restored(tmp_path):
    """As they were written before they had a manifest."""
    old = ocp.training.Checkpointer(str(tmp_path / "checkpoints"))
    old.save(4, state(2, step=4))
    old.close()
    with Snapshots(tmp_path) as snapshots:
        same_bits(snapshots.restore(like=state()), state(2, step=4))


def test_a_state_of_another_structure_is_named(tmp_path):
    with Snapshots(tmp_path) as snapshots:
        snapshots.save(1, {"w": jnp.ones(2)})
        with pytest.raises(CheckpointError, match="checkpoint and like differ at 1 leaves"):
            snapshots.restore(like={"w": jnp.ones(3)})


KILLED = """
import os, sys
from pathlib import Path
from tests.train.engine.test_checkpoints import state
from train.engine.checkpoints import Snapshots
snapshots = Snapshots(Path(sys.argv[1]))
snapshots.save(1, state(1, 1))
snapshots.close()
for name in ("rename", "replace"):
    setattr(os, name, lambda *_, **__: os._exit(9))
snapshots = Snapshots(Path(sys.argv[1]))
snapshots.save(2, state(2, 2))
snapshots.close()
"""


@pytest.mark.slow
@pytest.mark.promotes
def test_a_save_that_is_killed_leaves_the_one_before(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path]).returncode == 9
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert "1" in left and len(left) == 2 and "2" not in left
    with Snapshots(tmp_path) as snapshots:
        same_bits(snapshots.restore(like=state()), state(1, 1))
        snapshots.save(3, state(3, 3))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}
    with Snapshots(tmp_path) as snapshots:
        same_bits(snapshots.restore(like=state()), state(3, 3))
