"""Effect of kill -9 on a training run: none, bitwise.

`python -m benchmarks kill_and_resume --times 10`: a run is killed at random times and resumed until
it completes; further runs follow until N kills have happened. Every completed run must be bitwise
identical to a run without kills.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from train.engine.metrics_writer import FILE
from train.engine.run_directory import CONFIG, SUMMARY

RUN = (
    *("train.image", "digits-mixer", "--epochs", "15"),
    *("--checkpoint-every", "20", "--steps-per-dispatch", "10"),
)


def launch(directory: Path) -> subprocess.Popen[bytes]:
    """Starts or resumes the run; its output goes to a log next to its directory."""
    flags = ["--runs-dir", str(directory.parent), "--name", directory.name]
    flags += ["--resume"] if (directory / CONFIG).is_file() else []
    with directory.with_suffix(".log").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", *RUN, *flags], stdout=log, stderr=log)


def last_checkpoint(directory: Path) -> int:
    """Returns the step of a run's last complete checkpoint, or 0."""
    complete = directory.glob("checkpoints/*/commit_success.txt")
    return max(
        (int(path.parent.name) for path in complete if path.parent.name.isdecimal()), default=0
    )


def outcome(directory: Path) -> dict[str, Any]:
    """Returns the bytes of a completed run: its metrics, its deep and its compact model."""
    models = {name: lcjax.restore(directory / name) for name in ("deep", "compact")}
    leaves = jax.tree_util.tree_leaves_with_path(models)
    bits = {jax.tree_util.keystr(keys): _bits(leaf) for keys, leaf in leaves}
    return bits | {FILE: (directory / FILE).read_bytes()}


def _bits(leaf: Any) -> tuple[Any, ...]:
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()


def _ends(process: subprocess.Popen[bytes], directory: Path, *, within: float | None) -> bool:
    """Returns whether a process ends within this many seconds; kills it otherwise.

    Raises:
      SystemExit: when it fails.
    """
    try:
        failed = process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    if failed:
        sys.exit(f"error: {directory.name} failed; read {directory.with_suffix('.log')}.")
    return True


def main(
    times: int = 10,
    seed: int = 0,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Kills, resumes and compares.

    Args:
      times: number of kills.
      seed: of the times of kills, each between a process's start and the length of a whole run.
      runs_dir: directory of the runs; those of an earlier call are replaced.
      results_dir: directory of results.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    whole, start = _cleared(runs_dir / "kills-none"), time.perf_counter()
    _ends(launch(whole), whole, within=None)
    seconds, want = time.perf_counter() - start, outcome(whole)
    moments, kills, runs = random.Random(seed), [], []
    while len(kills) < times:
        number = len(runs) + 1
        directory, before = _cleared(runs_dir / f"kills-{number}"), len(kills)
        while True:
            moment = moments.uniform(0, seconds) if len(kills) < times else None
            if _ends(launch(directory), directory, within=moment):
                break
            step = last_checkpoint(directory)
            kills.append({"run": number, "seconds": moment, "last_checkpoint": step})
            print(f"kill {len(kills)}: {kills[-1]}", flush=True)
            if (directory / SUMMARY).is_file():  # nothing is left to resume
                break
        runs.append({"kills": len(kills) - before, "same": outcome(directory) == want})
    publish(
        "kill_and_resume",
        {"run": "python -m " + " ".join(RUN), "times": times, "seed": seed},
        {"whole_run_seconds": seconds, "kills": kills, "runs": runs},
        tabulate(_KILLS, enumerate(kills, 1), f"Kills; the run without kills took {seconds:.0f} s"),
        tabulate(_RUNS, enumerate(runs, 1), "Runs"),
        results_dir=results_dir,
    )
    if not all(run["same"] for run in runs):
        sys.exit(1)


_KILLS = (
    Column("kill", lambda row: row[0]),
    Column("of run", lambda row: row[1]["run"]),
    Column("after its start, s", lambda row: row[1]["seconds"], "{:.1f}"),
    Column("last complete checkpoint, step", lambda row: row[1]["last_checkpoint"]),
)
_RUNS = (
    Column("run", lambda row: row[0]),
    Column("kills", lambda row: row[1]["kills"]),
    Column(
        "metrics.jsonl, deep and compact: bitwise identical",
        lambda row: "yes" if row[1]["same"] else "no",
    ),
)


def _cleared(directory: Path) -> Path:
    """Returns the directory, without what an earlier call left there."""
    if directory.exists():
        shutil.rmtree(directory)
    return directory


if __name__ == "__main__":
    tyro.cli(main)
