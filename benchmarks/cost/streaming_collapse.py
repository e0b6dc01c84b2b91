"""Streaming collapse of a checkpoint: peak memory, and time compared with its lower bound.

`python -m benchmarks streaming_collapse --preset XL`: every FFN of a GPT-2 with random bfloat16
weights and slopes of 1 collapses, by the command `lcjax collapse` in its own process. For
comparison, another process reads the whole checkpoint with orbax, takes the matrix products, and
writes the collapsed one with orbax, without verification. The processes alternate.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from orbax.checkpoint import v1 as ocp

import lcjax
from benchmarks.harness.publish import RESULTS, Table, publish
from benchmarks.networks import gpt2
from lcjax.io.containers import containers
from lcjax.io.file_paths import absolute_path
from lcjax.io.leaves import flatten, joined
from lcjax.io.manifest import ARRAYS
from lcjax.io.reader import open_checkpoint
from lcjax.io.streaming import abstract_with_slopes, write_incrementally
from lcjax.tree.paths import is_slope_path

COMMAND = "from lcjax.cli.command import main; main()"
_CALL = "import sys; from benchmarks.cost.streaming_collapse import {0}; {0}(*sys.argv[1:])"
MAKE, ALONE = _CALL.format("make"), _CALL.format("alone")
PARTS = ("reading", "products", "writing")
# At its end a process writes its status to a pipe: the peak that os.wait4 returns is also that of
# the process that started it.
_REPORTING = """import atexit, os
atexit.register(lambda: os.write({}, open("/proc/self/status", "rb").read()))
"""


def make(preset: str, path: str) -> None:
    """Writes a GPT-2 of random bfloat16 weights and slopes of 1, one leaf in memory at a time."""
    shapes = gpt2(preset).abstract("deep")
    random = np.random.default_rng(0)

    def pieces() -> Iterator[dict[Any, np.ndarray]]:
        for leaf, shape in flatten(shapes).items():
            if is_slope_path(joined(leaf)):
                yield {leaf: np.ones((), np.float32)}
            else:
                values = 0.02 * random.standard_normal(shape.shape, np.float32)
                yield {leaf: values.astype(jnp.bfloat16)}

    write_incrementally(
        absolute_path(path), pieces(), containers(shapes), {"model": f"gpt2:{preset}"}
    )


def alone(source: str, target: str) -> None:
    """Prints the seconds of reading, of the matrix products, and of writing."""
    seconds, clock = [], time.perf_counter

    def record(start: float) -> None:
        seconds.append(clock() - start)

    place = absolute_path(source)
    like = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
        abstract_with_slopes(open_checkpoint(place)),
    )
    start = clock()
    tree = ocp.load(place, like, checkpointable_name=ARRAYS)
    record(start)
    highest = jax.lax.Precision.HIGHEST
    product = jax.jit(
        lambda a, b: jnp.matmul(a, b, precision=highest, preferred_element_type=jnp.float32)
    )
    pairs = [
        tuple(jnp.asarray(mlp[name]["kernel"], jnp.float32) for name in ("dense_0", "dense_1"))
        for mlp in (block["mlp"] for block in tree["params"].values() if "mlp" in block)
    ]
    jax.block_until_ready(product(*pairs[0]))
    start = clock()
    for pair in pairs:
        jax.block_until_ready(product(*pair))
    record(start)
    del pairs
    compact, _ = lcjax.collapse(jax.tree.map(jnp.asarray, tree))
    host = jax.tree.map(np.asarray, compact)
    start = clock()
    ocp.save(target, host, checkpointable_name=ARRAYS)
    record(start)
    print(*seconds)


def measured(script: str, *arguments: str) -> tuple[str, float, int]:
    """Returns the output of a new process, its seconds, and its peak memory in bytes."""
    start = time.perf_counter()
    ours, theirs = os.pipe()
    command = [sys.executable, "-c", _REPORTING.format(theirs) + script, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(theirs,))
    os.close(theirs)
    with process, open(ours) as pipe:
        assert process.stdout is not None
        printed, status = process.stdout.read(), pipe.read()
    if process.returncode:
        sys.exit(f"error: a process of the benchmark failed: {arguments}")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return printed, time.perf_counter() - start, int(peak.split()[1]) * 1024


def main(
    preset: str = "124M",
    directory: Path = Path("runs/benchmark/streaming"),
    rounds: int = 1,
    keep: bool = False,
    results_dir: Path = RESULTS,
) -> None:
    """Makes the checkpoint, collapses it, and compares.

    Args:
      preset: size of GPT-2.
      directory: of checkpoints; needs three times the size of one.
      rounds: repetitions of the command and the comparison, alternating.
      keep: whether to keep the checkpoint for another run.
      results_dir: directory of results.
    """
    source, compact, other = (
        str((directory / f"{preset}-{name}").absolute()) for name in ("deep", "compact", "other")
    )
    if not Path(source).exists():
        measured(MAKE, preset, source)
    walls, peaks, parts = [], [], []
    for _ in range(rounds):
        printed, _, _ = measured(ALONE, source, other)
        parts.append([float(number) for number in printed.split()])
        shutil.rmtree(other)
        _, wall, peak = measured(COMMAND, "collapse", source, compact)
        walls.append(wall)
        peaks.append(peak)
        size = sum(file.stat().st_size for file in Path(compact).rglob("*") if file.is_file())
        shutil.rmtree(compact)
    _, started, idle = measured(COMMAND, "inspect", source)
    medians = dict(zip(PARTS, map(statistics.median, zip(*parts, strict=True)), strict=True))
    bare, wall, peak = sum(medians.values()), statistics.median(walls), max(peaks)
    results = {
        "bytes_in": sum(f.stat().st_size for f in Path(source).rglob("*") if f.is_file()),
        "bytes_out": size,
        "peak_bytes": peak,
        "peak_bytes_of_inspect": idle,
        "seconds": {"command": wall, **medians, "inspect": started},
        "ratio": wall / bare,
    }
    rows = [
        ("lcjax collapse", f"{wall:.1f} s", f"{peak / 2**20:,.0f} MiB"),
        *((f"{name} alone", f"{medians[name]:.1f} s", "") for name in PARTS),
        ("sum of the three", f"{bare:.1f} s", ""),
        ("lcjax collapse / sum", f"{wall / bare:.2f}", ""),
        ("lcjax inspect", f"{started:.1f} s", f"{idle / 2**20:,.0f} MiB"),
    ]
    table = Table((f"GPT-2 {preset}", "time", "peak memory"), rows)
    config = {"preset": preset, "dtype": "bfloat16", "rounds": rounds}
    publish(f"streaming_collapse-{preset}", config, results, table, results_dir=results_dir)
    if not keep:
        shutil.rmtree(source)


if __name__ == "__main__":
    tyro.cli(main)
