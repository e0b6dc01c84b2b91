"""Training runs over several seeds, each in its own process; what is measured already stays."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Summary = dict[str, Any]


def measured(
    rows: Mapping[str, Sequence[str]], *, seeds: Sequence[int], runs_dir: Path
) -> dict[str, list[Summary]]:
    """Returns the summaries of every row's runs, one a seed.

    A run that is finished under this name is taken as it is, an unfinished one is resumed.

    Args:
      rows: arguments of `python -m train.image` by the name of the row.
      seeds: of the runs.
      runs_dir: where the runs are kept.

    Raises:
      subprocess.CalledProcessError: when a run fails.
    """
    return {
        name: [
            _run(f"{name}-{seed}", [*arguments, "--seed", str(seed)], runs_dir) for seed in seeds
        ]
        for name, arguments in rows.items()
    }


def command(arguments: Sequence[str]) -> str:
    """Returns the command line of a row, for a reader to run."""
    return " ".join(["python -m train.image", *arguments])


def mean_and_deviation(values: Sequence[float]) -> str:
    """Returns `mean ± standard deviation` of percentages, with two decimals."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def _run(name: str, arguments: Sequence[str], runs_dir: Path) -> Summary:
    directory = runs_dir / name
    if not (directory / "summary.json").exists():
        ours = ["--runs-dir", str(runs_dir), "--name", name]
        ours += ["--resume"] if directory.exists() else []
        print(f"{name}: {command(arguments)}", flush=True)
        log = runs_dir / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            subprocess.run(
                [sys.executable, "-m", "train.image", *arguments, *ours],
                stdout=file,
                stderr=subprocess.STDOUT,
                check=True,
            )
    return json.loads((directory / "summary.json").read_text())
