"""Training on several devices and in several processes: the same losses, the same collapse."""

import json
import os
import signal
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.prepared import prepare_set
from tests.helpers.runs import checkpoints, configured, start, wait_for
from tests.helpers.tiny_bert import make_folder, texts, write_tsv
from tests.helpers.tiny_text import write_text
from train.config.check import check
from train.data.images.splits import Split
from train.data.images.stream import stream
from train.engine.checkpoints import Snapshots
from train.engine.gradient_accumulation import WithAuxiliary, accumulate_gradient
from train.runtime.devices import DevicesConfig, make_mesh, parse_mesh
from train.validation import ConfigError

# Twenty steps, after which some sites are within the max_gap and others are not.
_TWENTY = "digits-mlp --epochs 1 --batch-size 64 --log-every 1 --strength 0.1 --max_gap 0.5"
_MESHES = ("fsdp=8", "tensor=8", "data=2,fsdp=2,tensor=2")


def flags(runs_dir, name, *more):
    return [*_TWENTY.split(), "--runs-dir", str(runs_dir), "--name", name, *more]


def devices(count):
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def told(directory):
    """Returns the losses of a run, and the sites that it collapsed."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    records = {
        record["step"]: record for record in map(json.loads, lines) if "train/loss" in record
    }
    summary = json.loads((directory / "summary.json").read_text())
    return [records[step]["train/loss"] for step in sorted(records)], summary["collapsed"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device."""
    runs = tmp_path_factory.mktemp("alone")
    finish(start(*flags(runs, "one"), **devices(1)))
    losses, collapsed = told(runs / "one")
    assert len(losses) == 20 and 0 < len(collapsed) < 3
    return losses, collapsed


@pytest.mark.slow
@pytest.mark.parametrize("mesh", _MESHES)
def test_losses_and_collapse_are_those_of_one_device(mesh, alone, tmp_path):
    finish(start(*flags(tmp_path, "a", "--mesh", mesh), **devices(8)))
    losses, collapsed = told(tmp_path / "a")
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    assert collapsed == alone[1]


@pytest.mark.slow
def test_two_processes_do_what_one_does(alone, tmp_path):
    in_two_processes(flags(tmp_path, "a", "--mesh", "fsdp=2,tensor=2"))
    losses, collapsed = told(tmp_path / "a")
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    assert collapsed == alone[1]


def in_two_processes(arguments, module="train.image"):
    """Runs a command in two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = ["--distributed", "--coordinator", f"localhost:{port}", "--num-processes", "2"]
    processes = [
        start(*arguments, *shared, "--process-id", str(number), module=module, **devices(2))
        for number in range(2)
    ]
    first, second = map(finish, processes)
    restored = "restored in a fresh process"
    assert restored in first and restored not in second


def kinds(root):
    """Returns a command for every kind of data and of source besides images in memory."""
    pytest.importorskip("tokenizers")
    prepare_set(root, "varied", shape=(None, None, 3), splits={"train": 48, "test": 6})
    make_folder(root / "bert")
    write_tsv(root / "a.tsv", texts(200))
    return {
        "train.image": f"digits-mlp --dataset varied --data-dir {root} --image-size 8 "
        "--batch-size 8 --epochs 3",
        "train.sentiment": f"sst2-minilm --dataset {root}/a.tsv --pretrained {root}/bert "
        "--batch-size 8 --protocol penalty --validation 0.2 --lengths 8 16",
        "train.language": f"shakespeare-small --dataset {write_text(root / 'a.txt')} --depth 2 "
        "--width 16 --num-heads 2 --mlp-hidden 32 --context 12 --batch-size 16 --epochs 1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train.image", "train.sentiment", "train.language"])
def test_all_kinds_train_in_two_processes(module, tmp_path):
    asked = [*kinds(tmp_path)[module].split(), "--log-every", "1", "--runs-dir", str(tmp_path)]
    finish(start(*asked, "--name", "one", module=module, **devices(1)))
    in_two_processes([*asked, "--name", "two", "--mesh", "data=2,tensor=2"], module)
    (losses, collapsed), (want, gone) = told(tmp_path / "two"), told(tmp_path / "one")
    assert len(want) >= 10
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    assert collapsed == gone


@pytest.mark.slow
def test_a_killed_run_goes_on_on_another_mesh(alone, tmp_path):
    own = flags(tmp_path, "a", "--checkpoint-every", "4", "--steps-per-dispatch", "4")
    killed = start(*own, "--mesh", "data=2,fsdp=4", **devices(8))
    wait_for(lambda: checkpoints(tmp_path / "a"), killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finish(start(*own, "--resume", "--mesh", "fsdp=2", **devices(2)))
    losses, collapsed = told(tmp_path / "a")
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    assert collapsed == alone[1]


@pytest.mark.slow
def test_a_missing_coordinator_is_an_error(tmp_path):
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("localhost", 0))
        address = f"localhost:{silent.getsockname()[1]}"
        asked = flags(tmp_path, "a", "--distributed", "--coordinator", address)
        process = start(*asked, "--num-processes", "2", "--process-id", "1")
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and not (tmp_path / "a").exists()
    assert f"no process listens at {address}" in err and "Give all of them the same" in err


_BAD_INPUT = """
import sys
from train import image
for flags, said in (
    ("--mesh data=3", "uses 3 devices but 8 are available; the axis sizes must multiply to 8"),
    ("--mesh data=8 --batch-size 36", "to be sharded over the 8 devices on data and fsdp"),
    ("--mesh data=8 --batch-size 64 --accumulate 16", "expected a multiple of 128"),
):
    sys.argv = ["train.image", "digits-mlp", *flags.split()]
    try:
        image.main()
    except SystemExit as result:
        assert said in str(result), result
    else:
        raise AssertionError(flags)
"""


@pytest.mark.slow
def test_a_mesh_or_a_batch_that_does_not_fit_is_an_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _BAD_INPUT],
        env=os.environ | devices(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


_TWO_BATCHES = """
import jax
from benchmarks.cost.scaling_in_devices import compiled_step
from benchmarks.networks import vit
from train.runtime.devices import DevicesConfig, make_mesh
mesh = make_mesh(DevicesConfig(mesh="fsdp=8"))
with jax.set_mesh(mesh):
    few, many = (
        compiled_step(vit("Ti/32", batch_size=n, depth=1), "deep", mesh) for n in (1, 4)
    )
assert few["collectives"] == many["collectives"] != {}, (few, many)
"""


@pytest.mark.slow
def test_devices_send_each_other_weights_and_gradients_but_no_activations():
    done = subprocess.run(
        [sys.executable, "-c", _TWO_BATCHES],
        env=os.environ | devices(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bad", ["data", "data=0", "data=2,data=2", "model=2", "data=2;fsdp=2", ""])
def test_what_is_no_mesh_is_an_error(bad):
    with pytest.raises(ConfigError, match="--mesh is .*; expected axes among data, fsdp, tensor"):
        parse_mesh(bad)


def test_one_device_needs_no_mesh():
    assert parse_mesh("data=8, fsdp=4,tensor=2") == {"data": 8, "fsdp": 4, "tensor": 2}
    if jax.device_count() == 1:
        assert make_mesh(DevicesConfig()) is None
        assert make_mesh(DevicesConfig(mesh="data=1,tensor=1")) is None


def test_flags_of_several_processes_go_together():
    with pytest.raises(ConfigError, match="--coordinator is set, but --distributed is not"):
        check(configured(coordinator="host:1"))
    with pytest.raises(ConfigError, match="--accumulate is 3, which does not divide"):
        check(configured(accumulate=3, batch_size=64))


@pytest.mark.parametrize("start_step", [0, 5])
def test_processes_read_the_rows_that_are_theirs(start_step):
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    split = Split(images, np.arange(20, dtype=np.int32))
    whole = stream(split, 6, seed=3, start_step=start_step)
    parts = [
        stream(split, 6, seed=3, start_step=start_step, rows=np.array(rows))
        for rows in ([0, 1, 2], [3, 4, 5])
    ]
    for _ in range(7):  # past the end of an epoch of three
        (_, want), got = next(whole), [next(part)[1] for part in parts]
        np.testing.assert_array_equal(np.concatenate(got), want)


def _loss(params, stats, batch, key):
    (x, y), held = batch
    predicted = jnp.tanh(x @ params["w"]) @ params["v"] + held[None]
    return ((predicted - y) ** 2).mean(), (stats + 1, {"size": (x**2).mean()})


@pytest.mark.slow
def test_parts_of_a_batch_give_the_gradient_of_the_whole(strict_promotion):
    rng = np.random.default_rng(0)
    params = {"w": jnp.float32(rng.normal(size=(3, 4))), "v": jnp.float32(rng.normal(size=(4, 2)))}
    examples = (jnp.float32(rng.normal(size=(12, 3))), jnp.float32(rng.normal(size=(12, 2))))
    gradient = jax.value_and_grad(_loss, has_aux=True)
    arguments = (
        params,
        jnp.int32(0),
        WithAuxiliary(examples, jnp.float32([0.5, 1.0])),
        jax.random.key(0),
    )
    (loss, (once, metrics)), grads = gradient(*arguments)
    assert accumulate_gradient(gradient, 1) is gradient
    (got, (thrice, got_metrics)), got_grads = jax.jit(accumulate_gradient(gradient, 3))(*arguments)
    assert (int(once), int(thrice)) == (1, 3)
    chex.assert_trees_all_close((got, got_metrics, got_grads), (loss, metrics, grads), rtol=1e-5)


def test_the_best_state_stays_beside_the_last(tmp_path):
    merits = {1: 0.2, 2: 0.9, 3: None, 4: 0.4, 5: None, 6: 0.5}
    with Snapshots(tmp_path, keep=2) as snapshots:
        assert snapshots.best == -np.inf
        for step, merit in merits.items():
            snapshots.save(step, {"step": jnp.int32(step)}, score=merit)
    assert checkpoints(tmp_path) == [2, 5, 6]
    with Snapshots(tmp_path) as snapshots:
        assert snapshots.best == 0.9
        assert int(snapshots.restore({"step": jnp.int32(0)})["step"]) == 6
