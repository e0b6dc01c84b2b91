"""Training runs over several seeds, each in its own process; what is measured already stays."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Summary = dict[str, Any]
# Arguments of `python -m train.image`, or of the module that comes first, such as "train.language".
# "{row}" stands for the run of that row with the same seed.
Rows = Mapping[str, Sequence[str]]


def measured(
    rows: Rows, chosen: Sequence[str], *, seeds: Sequence[int], runs_dir: Path
) -> dict[str, list[Summary]]:
    """Returns the summaries of the chosen rows' runs, one a seed.

    A run that is finished under its name is taken as it is, an unfinished one is resumed, and a run
    that another one starts from comes first.

    Args:
      rows: arguments by the name of the row.
      chosen: names of rows.
      seeds: of the runs.
      runs_dir: where the runs are kept.

    Raises:
      SystemExit: for a row that is not there (lists them), and when a run fails (names its log).
    """
    unknown = sorted(set(chosen) - rows.keys())
    if unknown:
        sys.exit(f"error: no such row: {', '.join(unknown)}; there are {', '.join(rows)}.")
    return {name: [_run(rows, name, seed, runs_dir) for seed in seeds] for name in chosen}


def command(arguments: Sequence[str]) -> str:
    """Returns the command line of a row, for a reader to run."""
    return " ".join(["python -m", *_with_module(arguments)])


def parameters(summary: Summary) -> int:
    """Returns how many parameters a run's compact model needs, a peer's without what it removed."""
    return summary["compact"]["parameters"] - summary.get("removed", 0)


def mean_and_deviation(values: Sequence[float], *, digits: int = 2) -> str:
    """Returns `mean ± standard deviation`, with so many decimals."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _with_module(arguments: Sequence[str]) -> Sequence[str]:
    if arguments[0].startswith(("train.", "benchmarks.")):
        return arguments
    return ["train.image", *arguments]


def _run(rows: Rows, row: str, seed: int, runs_dir: Path) -> Summary:
    directory = runs_dir / f"{row}-{seed}"
    if not (directory / "summary.json").exists():
        for earlier in rows:
            if f"{{{earlier}}}" in rows[row]:
                _run(rows, earlier, seed, runs_dir)
        places = {f"{{{name}}}": str(runs_dir / f"{name}-{seed}") for name in rows}
        asked = [places.get(argument, argument) for argument in rows[row]] + ["--seed", str(seed)]
        ours = ["--runs-dir", str(runs_dir), "--name", directory.name]
        ours += ["--resume"] if directory.exists() else []
        print(f"{directory.name}: {command(asked)}", flush=True)
        log = runs_dir / f"{directory.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            asked = [sys.executable, "-m", *_with_module(asked), *ours]
            done = subprocess.run(asked, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(f"error: {directory.name} failed; {log} says why.")
    return json.loads((directory / "summary.json").read_text())
