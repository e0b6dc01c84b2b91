"""Training runs over several seeds, each in its own process; finished runs are not repeated."""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.harness.provenance import EARLIER_RUNS

Summary = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """An argument: the directory of another run with the same seed.

    Attributes:
      run: name of that run.
    """

    run: str


Arguments = tuple[str | RunDirectory, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: `python -m MODULE ARGUMENTS`, without its seed and directory.

    Attributes:
      name: of the run.
      arguments: the module, then its arguments.
    """

    name: str
    arguments: Arguments

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs whose directories this one reads."""
        return tuple(each.run for each in self.arguments if isinstance(each, RunDirectory))

    @property
    def command(self) -> str:
        """The command line for readers, with `{name}` for the directory of another run."""
        return " ".join(["python -m", *self.command_line("{{{}}}".format)])

    def command_line(self, directory: Callable[[str], Any]) -> list[str]:
        """Returns the module and its arguments, with `directory(name)` for other runs."""
        return [
            str(directory(each.run)) if isinstance(each, RunDirectory) else each
            for each in self.arguments
        ]


def named(rows: Mapping[str, Arguments]) -> list[Run]:
    """Returns runs from their arguments by name."""
    return [Run(name, arguments) for name, arguments in rows.items()]


def run_all(
    runs: Iterable[Run], names: Sequence[str], *, seeds: Sequence[int], runs_dir: Path
) -> dict[str, list[Summary]]:
    """Returns the summaries of the named runs, one per seed.

    Reads finished runs, resumes unfinished ones, and first runs those that others need. Waits for
    another process that makes the same run. The command of a run is kept next to its log.

    Args:
      runs: all of them, those that others need included.
      names: of the runs to return.
      seeds: of the runs.
      runs_dir: directory of the runs.

    Raises:
      SystemExit: for an unknown name, for a run that was made by another command, and when a run
        fails (names its log).
    """
    known = {run.name: run for run in runs}
    check_names("row", names, known)
    return {name: [_run(known, known[name], seed, runs_dir) for seed in seeds] for name in names}


def check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Exits where a name is not known.

    Args:
      kind: what they are names of, for the message.
      names: that were given.
      known: in the order in which they are shown.

    Raises:
      SystemExit: for an unknown name, in one line.
    """
    known = list(known)
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"error: no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}.")


def run_logged(module: str, arguments: Sequence[str], log: Path) -> None:
    """Runs `python -m module arguments`, and prints the command; its output goes to the log.

    Its seconds are kept next to the log.

    Raises:
      SystemExit: when it fails (names the log).
    """
    print(f"{log.stem}: python -m {' '.join([module, *arguments])}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    EARLIER_RUNS.use(log)
    start = time.perf_counter()
    try:
        with log.open("w") as file:
            line = [sys.executable, "-m", module, *arguments]
            done = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT)
    finally:
        EARLIER_RUNS.record(log, time.perf_counter() - start)
    if done.returncode:
        sys.exit(f"error: {log.stem} failed; read {log}.")


def parameters(summary: Summary) -> int:
    """Returns the parameters of a run's compact model, without those a baseline removed."""
    return summary["compact"]["parameters"] - summary.get("removed", 0)


def mean_and_deviation(values: Sequence[float], *, digits: int = 2) -> str:
    """Returns `mean ± standard deviation` with this number of decimals."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _run(known: Mapping[str, Run], run: Run, seed: int, runs_dir: Path) -> Summary:
    directory = runs_dir / f"{run.name}-{seed}"
    log = runs_dir / f"{directory.name}.log"
    for needed in run.needs:
        _run(known, known[needed], seed, runs_dir)
    if not directory.exists():
        EARLIER_RUNS.forget(log)
    EARLIER_RUNS.use(log)
    summary = directory / "summary.json"
    runs_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(log.with_suffix(".lock")):  # benchmarks that run at the same time share runs
        _check_command(run, directory, log.with_suffix(".command"))
        if not summary.exists():
            line = run.command_line(lambda name: runs_dir / f"{name}-{seed}")
            line += ["--seed", str(seed)]
            line += ["--runs-dir", str(runs_dir), "--name", directory.name]
            line += ["--resume"] if directory.exists() else []
            run_logged(line[0], line[1:], log)
    return json.loads(summary.read_text())


def _check_command(run: Run, directory: Path, known: Path) -> None:
    """Keeps the command of a run; exits where the directory has a run of another command."""
    if not directory.exists():
        known.write_text(run.command)
    elif known.exists() and known.read_text() != run.command:
        sys.exit(
            f"error: {directory} was made by {known.read_text()!r}, expected {run.command!r}. "
            "Remove it, or give another --runs-dir."
        )
