"""What kill -9 costs a training run: nothing, bit for bit.

`python -m benchmarks.kills --times 10`: a run is killed at a random moment and resumed, again and
again until it ends; then another one, until so many kills have come to pass. Every one that ends
must have left the very bits of the run that nobody killed.
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
from benchmarks.record import RESULTS, Table, publish
from train.engine.metrics_writer import FILE
from train.engine.run_directory import CONFIG

RUN = (
    *("train.image", "digits-mixer", "--epochs", "15"),
    *("--checkpoint-every", "20", "--steps-per-dispatch", "10"),
)


def launch(directory: Path) -> subprocess.Popen[bytes]:
    """Starts the run, or resumes it where it has begun; what it says goes to a log beside it."""
    named = ["--runs-dir", str(directory.parent), "--name", directory.name]
    named += ["--resume"] if (directory / CONFIG).is_file() else []
    with directory.with_suffix(".log").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", *RUN, *named], stdout=log, stderr=log)


def last_checkpoint(directory: Path) -> int:
    """Returns the step of a run's last whole checkpoint, 0 where there is none."""
    whole = directory.glob("checkpoints/*/commit_success.txt")
    return max((int(path.parent.name) for path in whole if path.parent.name.isdecimal()), default=0)


def outcome(directory: Path) -> dict[str, Any]:
    """Returns the bytes that a run comes to: its records, its deep and its compact model."""
    models = {name: lcjax.restore(directory / name) for name in ("deep", "compact")}
    leaves = jax.tree_util.tree_leaves_with_path(models)
    bits = {jax.tree_util.keystr(keys): _bits(leaf) for keys, leaf in leaves}
    return bits | {FILE: (directory / FILE).read_bytes()}


def _bits(leaf: Any) -> tuple[Any, ...]:
    held = np.asarray(leaf)
    return str(held.dtype), held.shape, held.tobytes()


def _ends(process: subprocess.Popen[bytes], directory: Path, *, within: float | None) -> bool:
    """Returns whether a process ends by itself in so many seconds; kills it if not.

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
        sys.exit(f"error: {directory.name} failed; {directory.with_suffix('.log')} says why.")
    return True


def main(
    times: int = 10,
    seed: int = 0,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Kills, resumes and compares.

    Args:
      times: how many kills.
      seed: of the moments, each from a process's start to as long as the whole run takes.
      runs_dir: where runs are kept; those of an earlier call are replaced.
      results_dir: where results are written.
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
        runs.append({"kills": len(kills) - before, "same": outcome(directory) == want})
    _report({"times": times, "seed": seed}, seconds, kills, runs, results_dir)


def _cleared(directory: Path) -> Path:
    """Returns where a run is to stand, rid of one that an earlier call left there."""
    if directory.exists():
        shutil.rmtree(directory)
    return directory


def _report(
    config: dict[str, Any],
    seconds: float,
    kills: list[dict[str, Any]],
    runs: list[dict[str, Any]],
    results_dir: Path,
) -> None:
    rows = [
        (str(i), str(kill["run"]), f"{kill['seconds']:.1f}", str(kill["last_checkpoint"]))
        for i, kill in enumerate(kills, 1)
    ]
    headers = ("kill", "of run", "after its start, s", "last whole checkpoint, step")
    ends = [(str(i), str(run["kills"]), _yes(run["same"])) for i, run in enumerate(runs, 1)]
    publish(
        "kills",
        {"run": "python -m " + " ".join(RUN), **config},
        {"whole_run_seconds": seconds, "kills": kills, "runs": runs},
        Table(headers, rows, f"Kills; the run that nobody killed took {seconds:.0f} s"),
        Table(("run", "kills", "metrics.jsonl, deep and compact: the same bits"), ends, "Runs"),
        results_dir=results_dir,
    )
    if not all(run["same"] for run in runs):
        sys.exit(1)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


if __name__ == "__main__":
    tyro.cli(main)
