"""Several writers of one path: one wins whole, the others get one error at once."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lcjax.errors import CheckpointError
from lcjax.io import atomic_write as atomic
from lcjax.io.checkpoint import restore, save
from lcjax.io.file_paths import absolute_path
from lcjax.io.streaming import collapse_checkpoint
from tests.lcjax.io.test_paths import TREE


def attempt(write):
    try:
        write()
        return "saved"
    except FileExistsError as error:
        return str(error)


def check(outcomes, path):
    """One won, whole; the others were refused in the two ways there are."""
    assert outcomes.count("saved") == 1
    lost = [one for one in outcomes if one != "saved"]
    assert all(
        "already exists; expected a new path" in one or "is saving to this" in one for one in lost
    )
    values = np.unique(np.asarray(restore(path)["a"]))
    assert values.tolist() == [outcomes.index("saved")]


@pytest.mark.parametrize("repeat", range(3))
def test_concurrent_saves_of_threads(tmp_path, repeat):
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            pool.map(
                lambda i: attempt(lambda: save(tmp_path / "a", {"a": np.full((200, 200), i)})),
                range(8),
            )
        )
    check(outcomes, tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_concurrent_saves_to_different_paths(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: save(tmp_path / str(i), {"a": np.full(3, i)}), range(4)))
    assert [restore(tmp_path / str(i))["a"][0] for i in range(4)] == [0, 1, 2, 3]


def test_collapse_checkpoint_excludes_save(tmp_path):
    save(tmp_path / "deep", TREE)
    with atomic.atomic_write(absolute_path(tmp_path / "a")) as place:
        for write in (
            lambda: save(tmp_path / "a", {"a": np.ones(2)}),
            lambda: collapse_checkpoint(tmp_path / "deep", tmp_path / "a"),
        ):
            with pytest.raises(FileExistsError, match="another process or thread is saving"):
                write()
        with pytest.raises(CheckpointError, match="is still running, in .*a.lcjax-unfinished"):
            restore(tmp_path / "a")
        place.mkdir()
    assert sorted(os.listdir(tmp_path)) == ["a", "deep"]


WRITER = """
import json, logging, sys, time
import numpy as np
from lcjax.io.checkpoint import save
logging.disable(logging.CRITICAL)
directory, i = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
for repeat in map(int, sys.stdin):
    start = time.perf_counter()
    try:
        save(f"{directory}/{repeat}", {"a": np.full((300, 300), i)})
        said = "saved"
    except FileExistsError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([said, time.perf_counter() - start]), flush=True)
"""


def race(directory, processes, repeats):
    """Starts processes that save to one path at the same time, again and again."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    writers = [subprocess.Popen([*command, str(i)], **pipes) for i in range(processes)]
    try:
        assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * processes
        for repeat in range(repeats):
            for writer in writers:
                writer.stdin.write(f"{repeat}\n")
                writer.stdin.flush()
            outcomes = [json.loads(writer.stdout.readline()) for writer in writers]
            check([said for said, _ in outcomes], directory / str(repeat))
    finally:
        for writer in writers:
            writer.stdin.close()
            writer.wait()
            writer.stdout.close()
    assert set(os.listdir(directory)) == {str(repeat) for repeat in range(repeats)}


@pytest.mark.slow
def test_concurrent_saves_of_three_processes(tmp_path):
    race(tmp_path, 3, 4)


@pytest.mark.slow
def test_concurrent_saves_of_ten_processes(tmp_path):
    race(tmp_path, 10, 20)


DIES = """
import os, sys
from lcjax.io.atomic_write import atomic_write
from lcjax.io.file_paths import absolute_path
with atomic_write(absolute_path(sys.argv[1])) as place:
    place.mkdir()
    (place / "half").write_text("written")
    print("claimed", flush=True)
    sys.stdin.readline()
    os._exit(9)
"""


def test_claim_of_dead_process_is_free(tmp_path):
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, "-c", DIES, str(tmp_path / "a")]
    with subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, **pipes) as process:
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(FileExistsError, match="another process or thread is saving"):
            save(tmp_path / "a", {"a": np.ones(2)})
        process.communicate("die\n")
    assert process.returncode == 9 and os.listdir(tmp_path) == ["a.lcjax-unfinished"]
    save(tmp_path / "a", {"a": np.ones(2)})
    assert restore(tmp_path / "a")["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["a"]


def test_save_keeps_path_created_meanwhile(tmp_path):
    with pytest.raises(FileExistsError, match="already exists; expected a new path"):
        with atomic.atomic_write(absolute_path(tmp_path / "a")) as place:
            place.mkdir()
            (tmp_path / "a").write_text("another's")
    assert (tmp_path / "a").read_text() == "another's"
    assert os.listdir(tmp_path) == ["a"]


JOB = """
import sys
import jax, numpy as np
port, index, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, index)
from jax.sharding import NamedSharding, PartitionSpec as P
from lcjax.io.checkpoint import restore, save
mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
placed = NamedSharding(mesh, P("x"))
make = lambda at: np.arange(4.0, dtype=np.float32)[at]
tree = {"a": jax.make_array_from_callback((4,), placed, make), "b": np.ones(2)}
save(directory + "/lr=[1,2]", tree)
back = restore(directory + "/lr=[1,2]", sharding={"a": placed, "b": NamedSharding(mesh, P())})
assert np.array_equal(back["a"].addressable_shards[0].data, np.arange(4.0)[2 * index :][:2])
try:
    save(directory + "/lr=[1,2]", tree)
except FileExistsError as error:
    print("refused", flush=True)
"""


@pytest.mark.slow
def test_save_in_job_of_two_processes(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", JOB, str(port)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    jobs = [subprocess.Popen([*command, str(i), str(tmp_path)], **pipes) for i in range(2)]
    outputs = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert [out.splitlines()[-1] for out, _ in outputs] == ["refused"] * 2
    assert os.listdir(tmp_path) == ["lr=[1,2]"]


def test_second_save_fails_immediately(tmp_path):
    """Not after a barrier of orbax's, which took 300 s."""
    started, end = threading.Event(), threading.Event()

    def slow():
        with atomic.atomic_write(absolute_path(tmp_path / "a")) as place:
            save(place, {"a": np.ones(2)})
            started.set()
            end.wait(30)

    thread = threading.Thread(target=slow)
    thread.start()
    started.wait(30)
    before = time.perf_counter()
    with pytest.raises(FileExistsError, match="is saving to this path"):
        save(tmp_path / "a", {"a": np.ones(2)})
    waited = time.perf_counter() - before
    end.set()
    thread.join()
    assert waited < 20
    assert restore(tmp_path / "a")["a"].tolist() == [1, 1]
