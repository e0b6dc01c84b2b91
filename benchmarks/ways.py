"""Ways to a compact classifier, side by side: the same deep network, the same steps."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Table, publish
from benchmarks.training_runs import Summary, command, mean_and_deviation, measured, parameters


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to a compact model.

    Attributes:
      method: what it is called; lcjax's own begin with its name.
      row: name of its runs.
      arguments: of train.image, or of the module that comes first.
      repeated: whether it is run with every seed, or with the first alone.
    """

    method: str
    row: str
    arguments: tuple[str, ...]
    repeated: bool = True


def follow(ways: Iterable[Way], *, seeds: Sequence[int], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns what each way comes to, one point each; runs what is not there yet.

    Args:
      ways: those that others start from among them.
      seeds: of the runs.
      runs_dir: where the runs are kept.
    """
    ways = list(ways)
    rows = {way.row: way.arguments for way in ways}
    points = []
    for way in ways:
        own = seeds if way.repeated else seeds[:1]
        points.append(point(way, measured(rows, [way.row], seeds=own, runs_dir=runs_dir)[way.row]))
    return points


def report(
    name: str, ways: Iterable[Way], *, seeds: Sequence[int], runs_dir: Path, results_dir: Path
) -> list[dict[str, Any]]:
    """Follows ways, publishes what they come to, and returns the points."""
    points = follow(ways, seeds=seeds, runs_dir=runs_dir)
    publish(name, {"seeds": list(seeds)}, points, table(points), results_dir=results_dir)
    return points


def point(way: Way, found: Sequence[Summary]) -> dict[str, Any]:
    """Returns what the runs of a way come to, one number a seed; JSON."""
    return {
        "method": way.method,
        "row": way.row,
        "command": command(way.arguments),
        **costs(found),
        "validation": [summary["compact"]["validation"]["accuracy"] for summary in found],
        "accuracy": [summary["compact"]["test"]["accuracy"] for summary in found],
    }


def costs(found: Sequence[Summary]) -> dict[str, Any]:
    """Returns what the compact models of runs cost, one number a seed; JSON.

    FLOPs and time are those of the compact form over those of its own deep one (with the published
    method's ReLU where that was trained), time that of the larger batch, the forms in turn. None
    where the run has not both: nothing was collapsed, or a peer is kept in the deep one's shapes.
    """
    return {
        "parameters": [parameters(summary) for summary in found],
        "collapsed": [summary["collapsed"] for summary in found],
        "flops_ratio": [_ratio(summary, _flops) for summary in found],
        "time_ratio": [_ratio(summary, _milliseconds) for summary in found],
    }


def table(points: Iterable[dict[str, Any]]) -> Table:
    """Returns points as a table."""
    costs = ("parameters", "FLOPs, %", "time, %", "collapsed")
    headers = ("method", *costs, "validation, %", "test, %", "seeds")
    return Table(headers, [_cells(each) for each in points])


def percent(ratios: Sequence[float | None]) -> str:
    """Returns the mean of the ratios that are known, in percent, or a dash."""
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{100 * statistics.mean(known):.1f}" if known else "–"


def _ratio(summary: Summary, of: Callable[[dict[str, Any]], float]) -> float | None:
    if "removed" in summary or not summary["collapsed"]:
        return None
    return of(summary["compact"]) / of(summary["deep"])


def _flops(row: dict[str, Any]) -> float:
    return next(value for key, value in row.items() if key.startswith("flops_per_"))


def _milliseconds(row: dict[str, Any]) -> float:
    return row["latency_ms"][max(row["latency_ms"], key=int)]


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    sizes = sorted(set(found["parameters"]))
    counts = sorted({len(each) for each in found["collapsed"]})
    return (
        found["method"],
        " / ".join(f"{size:,}" for size in sizes),
        *(percent(found[key]) for key in ("flops_ratio", "time_ratio")),
        " / ".join(map(str, counts)),
        *(
            mean_and_deviation([100 * each for each in found[split]])
            for split in ("validation", "accuracy")
        ),
        str(len(found["accuracy"])),
    )
