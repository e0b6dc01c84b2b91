"""The image presets under every protocol of train.image, compared with baselines and students.

`python -m benchmarks images`: resumes an interrupted benchmark; runs are kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.baselines.base import BASELINES
from benchmarks.deep_runs import FASHION_MLP_DEEP, PLAIN
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.training_runs import (
    Arguments,
    Run,
    RunDirectory,
    Summary,
    mean_and_deviation,
    named,
    parameters,
    run_all,
)

_MLP = ("train.image", "fashion-mlp")
_DEEP = RunDirectory(FASHION_MLP_DEEP.name)


def _collapsed(
    fit: str, count: int, *, deep: RunDirectory = _DEEP, heal_epochs: int = 0
) -> Arguments:
    """Returns arguments that collapse the last sites of a finished network."""
    start = (*_MLP, "--protocol", "fit-heal", "--from", deep, "--fit", fit, "--count", str(count))
    return (*start, "--order", "last", "--heal-epochs", str(heal_epochs))


# Chosen on the validation split: no weight decay, a lower learning rate, a short warmup.
_HEALED = (
    *_collapsed("least_squares", 2, heal_epochs=1),
    *("--weight-decay", "0", "--warmup", "0.1", "--learning-rate", "1e-3"),
)
_ROWS: dict[str, Arguments] = {
    "fashion-mlp": _MLP,
    FASHION_MLP_DEEP.name: FASHION_MLP_DEEP.arguments,
    "fashion-mlp-small": (*_MLP, "--hidden", "512", *PLAIN),
    "fashion-mlp-distilled": (*_MLP, "--hidden", "512", *PLAIN, "--teacher", _DEEP),
    **{
        f"fashion-mlp-{fit.replace('_', '-')}-{count}": _collapsed(fit, count)
        for fit in ("exact", "per_unit", "least_squares")
        for count in (1, 2)
    },
    "fashion-mlp-fit-heal": _HEALED,
    "fashion-mlp-fit-heal-taught": (*_HEALED, "--deep-teacher"),
    **{
        f"fashion-mlp-{run}": (module, RunDirectory("fashion-mlp-fit-heal"))
        for run, (module, _) in BASELINES.items()
    },
    "fashion-mlp-anneal": (*_MLP, "--protocol", "anneal", "--last", "2"),
    "fashion-mlp-anneal-taught": (
        *(*_MLP, "--protocol", "anneal", "--last", "2"),
        *("--teacher", _DEEP),
    ),
    "fashion-mlp-last-2": (*_MLP, "--last", "2"),
    "fashion-mlp-progressive": (
        *(*_MLP, "--protocol", "progressive", "--from", _DEEP),
        *("--last", "2"),
    ),
    **{
        f"fashion-mlp-published-{strength}": (
            *(*_MLP, "--protocol", "paper", "--last", "2", "--strength", strength),
        )
        for strength in ("0.08", "1", "10", "100")
    },
    "fashion-mlp-published-1-exact-2": _collapsed(
        "exact", 2, deep=RunDirectory("fashion-mlp-published-1")
    ),
    "fashion-mixer": ("train.image", "fashion-mixer"),
    "fashion-vit": ("train.image", "fashion-vit"),
}
RUNS: dict[str, Run] = {run.name: run for run in named(_ROWS)}


def _accuracy(form: str) -> Any:
    return lambda row: mean_and_deviation([100 * run[form]["test"]["accuracy"] for run in row[1]])


def _range(values: Sequence[int]) -> str:
    low, high = f"{min(values):,}", f"{max(values):,}"
    return low if low == high else f"{low} to {high}"


def _site_range(row: tuple[str, list[Summary]]) -> str:
    return f"{_range([len(run['collapsed']) for run in row[1]])} of {len(row[1][0]['sites'])}"


_COLUMNS = (
    Column("run", lambda row: row[0]),
    Column("deep, %", _accuracy("deep")),
    Column("compact, %", _accuracy("compact")),
    Column("parameters", lambda row: row[1][0]["deep"]["parameters"], "{:,}"),
    Column("→", lambda row: _range([parameters(run) for run in row[1]])),
    Column("sites", _site_range),
    Column("command", lambda row: RUNS[row[0]].command),
)


def main(
    rows: tuple[str, ...] = tuple(RUNS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished, prints a table and writes a JSON.

    Args:
      rows: names of runs.
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    found = run_all(RUNS.values(), rows, seeds=seeds, runs_dir=runs_dir)
    results = {
        name: {"command": RUNS[name].command, "seeds": list(seeds), "runs": found[name]}
        for name in rows
    }
    table = tabulate(_COLUMNS, found.items())
    publish("images", {"seeds": list(seeds)}, results, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
