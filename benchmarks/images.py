"""The image presets and every protocol of train.image, beside the same topology in other ways.

`python -m benchmarks.images`: resumes where it was stopped; the runs stay in runs/benchmark.
"""

from pathlib import Path

import tyro

from benchmarks.peers import PEERS
from benchmarks.record import RESULTS, Table, publish
from benchmarks.training_runs import Summary, command, mean_and_deviation, measured, parameters

_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")


def _collapsed(fit: str, count: int) -> tuple[str, ...]:
    """Returns the plain network, finished, with its last sites collapsed and no training after."""
    start = ("fashion-mlp", "--protocol", "fit-heal", "--from", "{fashion-mlp-deep}")
    asked = ("--fit", fit, "--count", str(count), "--order", "last", "--heal-epochs", "0")
    return (*start, *asked)


# Chosen on the validation split: healing has no decay, and a lower rate that rises quickly.
_HEALED = (
    *(*_collapsed("least_squares", 2)[:-1], "1"),
    *("--weight-decay", "0", "--warmup", "0.1", "--learning-rate", "1e-3"),
)
ROWS = {
    "fashion-mlp": ("fashion-mlp",),
    "fashion-mlp-deep": ("fashion-mlp", *_PLAIN),
    "fashion-mlp-small": ("fashion-mlp", "--hidden", "512", *_PLAIN),
    "fashion-mlp-distilled": (
        *("fashion-mlp", "--hidden", "512", *_PLAIN),
        *("--teacher", "{fashion-mlp-deep}"),
    ),
    **{
        f"fashion-mlp-{fit.replace('_', '-')}-{count}": _collapsed(fit, count)
        for fit in ("exact", "moments", "least_squares")
        for count in (1, 2)
    },
    "fashion-mlp-fit-heal": _HEALED,
    "fashion-mlp-fit-heal-taught": (*_HEALED, "--deep-teacher"),
    **{
        f"fashion-mlp-{peer.replace('_', '-')}": (f"benchmarks.{peer}", "{fashion-mlp-fit-heal}")
        for peer in PEERS
    },
    "fashion-mlp-anneal": ("fashion-mlp", "--protocol", "anneal", "--last", "2"),
    "fashion-mlp-anneal-taught": (
        *("fashion-mlp", "--protocol", "anneal", "--last", "2"),
        *("--teacher", "{fashion-mlp-deep}"),
    ),
    "fashion-mlp-last-2": ("fashion-mlp", "--last", "2"),
    "fashion-mlp-progressive": (
        *("fashion-mlp", "--protocol", "progressive", "--from", "{fashion-mlp-deep}"),
        *("--last", "2"),
    ),
    **{
        f"fashion-mlp-reference-{strength}": (
            *("fashion-mlp", "--protocol", "reference", "--last", "2", "--strength", strength),
        )
        for strength in ("0.08", "1", "10", "100")
    },
    "fashion-mlp-reference-1-exact-2": (
        *("fashion-mlp", "--protocol", "fit-heal", "--from", "{fashion-mlp-reference-1}"),
        *("--fit", "exact", "--count", "2", "--order", "last", "--heal-epochs", "0"),
    ),
    "fashion-mixer": ("fashion-mixer",),
    "fashion-vit": ("fashion-vit",),
}


def main(
    rows: tuple[str, ...] = tuple(ROWS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet, prints a table and writes a JSON.

    Args:
      rows: which of the rows.
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    found = measured(ROWS, rows, seeds=seeds, runs_dir=runs_dir)
    cells = [(name, *_cells(found[name]), command(ROWS[name])) for name in rows]
    headers = ("run", "deep, %", "compact, %", "parameters", "→", "sites", "command")
    results = {
        name: {"command": command(ROWS[name]), "seeds": list(seeds), "runs": found[name]}
        for name in rows
    }
    table = Table(headers, cells)
    publish("images", {"seeds": list(seeds)}, results, table, results_dir=results_dir)


def _cells(summaries: list[Summary]) -> tuple[str, ...]:
    accuracies = {
        form: [100 * summary[form]["test"]["accuracy"] for summary in summaries]
        for form in ("deep", "compact")
    }
    sizes = sorted({parameters(summary) for summary in summaries})
    fused = sorted({len(summary["collapsed"]) for summary in summaries})
    return (
        mean_and_deviation(accuracies["deep"]),
        mean_and_deviation(accuracies["compact"]),
        f"{summaries[0]['deep']['parameters']:,}",
        _span(sizes),
        f"{_span(fused)} of {len(summaries[0]['sites'])}",
    )


def _span(values: list[int]) -> str:
    low, high = f"{values[0]:,}", f"{values[-1]:,}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    tyro.cli(main)
