"""Runs the benchmarks, each in its own process; finished ones are not repeated.

`python -m benchmarks` or `make bench` takes hours and can be interrupted and resumed. Without an
accelerator those that fine-tune MiniLM run only where `--only` names them. `--quick` or
`make bench-quick` takes minutes: one seed, few rounds, results in another directory.
`python -m benchmarks NAME --help` shows the flags of one benchmark, and
`python -m benchmarks NAME` runs it alone.

Benchmarks of times run alone. Without an accelerator, the others run two at once, each on half of
the cores: this takes three quarters of the time that they take one after the other on all cores.
Those that train share a compilation cache.
"""

import hashlib
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro

from benchmarks.catalog import BENCHMARKS, Benchmark
from benchmarks.harness.affinity import available_cores, core_shares, pin_thread
from benchmarks.harness.publish import RESULTS, Table, machine
from benchmarks.harness.training_runs import check_names


def main(
    only: tuple[str, ...] = (),
    quick: bool = False,
    again: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs every benchmark that is not finished in this runs-dir.

    Args:
      only: names of benchmarks, or of their parts, such as forms-fashion-mlp; by default all, but
        on a CPU none that fine-tunes MiniLM.
      quick: one seed, few rounds; results go to runs-dir.
      again: repeat finished benchmarks; training runs are kept.
      runs_dir: directory of runs, logs and records of finished benchmarks.
      results_dir: directory of results.
    """
    if quick:
        runs_dir = runs_dir / "quick"
        results_dir = runs_dir / "results"
    known = [each for each in BENCHMARKS if each.listed and (each.quick is not None or not quick)]
    names = {name for each in known for name in (each.name, each.command)}
    check_names("benchmark", only, sorted(names))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes, one GPU
    chosen = [each for each in known if not only or {each.name, each.command} & {*only}]
    here = machine()
    cpu = here["device"] == "cpu"
    slow = [each.name for each in chosen if cpu and each.slow_on_cpu and not only]
    chosen = [each for each in chosen if each.name not in slow]

    def run(benchmark: Benchmark) -> tuple[str, str, str]:
        return benchmark.name, *_run(benchmark, quick, again, here, runs_dir, results_dir)

    rows = [
        (name, f"skipped: takes hours without an accelerator; --only {name} runs it", "")
        for name in slow
    ]
    for group, shares in schedule(chosen, available_cores(), pairs=cpu):
        pending = iter(shares)
        with ThreadPoolExecutor(len(shares), initializer=pin_thread, initargs=(pending,)) as pool:
            rows += pool.map(run, group)
    print(Table(("benchmark", "", "minutes"), rows).text())
    print(f"results, tables and plots are in {results_dir}")
    if any(outcome.startswith("failed") for _, outcome, _ in rows):
        sys.exit(1)


def schedule(
    benchmarks: Sequence[Benchmark], cores: Sequence[int], *, pairs: bool
) -> list[tuple[list[Benchmark], list[list[int]]]]:
    """Returns groups in order, each with the shares of the cores that its benchmarks run on.

    Args:
      benchmarks: in order.
      cores: that there are.
      pairs: whether concurrent benchmarks run two at once.
    """
    groups = []
    for concurrent, group in groupby(benchmarks, key=lambda each: each.concurrent):
        group = list(group)
        two = pairs and concurrent and len(group) > 1
        groups.append((group, core_shares(cores, 2 if two else 1)))
    return groups


def run_one(name: str, arguments: Sequence[str]) -> None:
    """Runs one benchmark in this process, with its own arguments."""
    module = next(each.module for each in BENCHMARKS if each.command == name)
    sys.argv = [f"python -m benchmarks {name}", *arguments]
    runpy.run_module(f"benchmarks.{module}", run_name="__main__")


def _run(
    benchmark: Benchmark,
    quick: bool,
    again: bool,
    here: dict[str, Any],
    runs_dir: Path,
    results_dir: Path,
) -> tuple[str, str]:
    """Returns the outcome of a benchmark, and its minutes."""
    missing = [package for package in benchmark.needs if find_spec(package) is None]
    if missing:
        return f"skipped: needs {', '.join(missing)}", ""
    arguments = benchmark.arguments(quick=quick, runs_dir=runs_dir, results_dir=results_dir)
    note = runs_dir / f"{benchmark.name}.done"
    done = {"arguments": arguments, "machine": here, "code": _code_digest()}
    if not again and not benchmark.always and note.exists():
        if json.loads(note.read_text()) == done:
            return "finished before", ""
    note.unlink(missing_ok=True)
    print(f"\npython -m benchmarks {benchmark.command} {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    cache = {"JAX_COMPILATION_CACHE_DIR": str(runs_dir.resolve() / "compiled")}
    command = [sys.executable, "-m", "benchmarks", benchmark.command, *arguments]
    environment = (cache if benchmark.concurrent and benchmark.trains else {}) | os.environ
    if subprocess.run(command, env=environment).returncode:
        return "failed, see above", f"{(time.perf_counter() - start) / 60:.1f}"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(done))
    return "finished", f"{(time.perf_counter() - start) / 60:.1f}"


def _code_digest() -> str:
    """Returns a digest of the benchmarks' code; results of other code are not finished."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _names() -> str:
    return "Benchmarks: " + ", ".join(dict.fromkeys(each.command for each in BENCHMARKS)) + "."


if __name__ == "__main__":
    try:
        if len(sys.argv) > 1 and sys.argv[1] in {each.command for each in BENCHMARKS}:
            run_one(sys.argv[1], sys.argv[2:])
        else:
            tyro.cli(main, description=f"{__doc__}\n{_names()}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command resumes.")
