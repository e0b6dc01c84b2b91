"""Methods for a compact classifier, compared: same deep network, same number of steps."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.publish import Column, publish, tabulate
from benchmarks.harness.training_runs import (
    Arguments,
    Run,
    Summary,
    mean_and_deviation,
    parameters,
    run_all,
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method for a compact model.

    Attributes:
      title: in tables; those of lcjax begin with its name.
      name: of its runs.
      arguments: of its runs, the module first.
      every_seed: whether it runs with every seed or with the first one only.
    """

    title: str
    name: str
    arguments: Arguments
    every_seed: bool = True

    @property
    def run(self) -> Run:
        """The training run."""
        return Run(self.name, self.arguments)


def run_methods(
    methods: Iterable[Method], *, seeds: Sequence[int], runs_dir: Path
) -> list[dict[str, Any]]:
    """Returns one `point` per method; runs what is not finished.

    Args:
      methods: with those whose runs others need.
      seeds: of the runs.
      runs_dir: directory of the runs.
    """
    methods = list(methods)
    runs = [method.run for method in methods]
    points = []
    for method in methods:
        own = seeds if method.every_seed else seeds[:1]
        found = run_all(runs, [method.name], seeds=own, runs_dir=runs_dir)
        points.append(point(method, found[method.name]))
    return points


def report(
    name: str, methods: Iterable[Method], *, seeds: Sequence[int], runs_dir: Path, results_dir: Path
) -> list[dict[str, Any]]:
    """Runs methods, publishes their results, and returns the points."""
    points = run_methods(methods, seeds=seeds, runs_dir=runs_dir)
    table = tabulate(COLUMNS, points)
    publish(name, {"seeds": list(seeds)}, points, table, results_dir=results_dir)
    return points


def point(method: Method, found: Sequence[Summary]) -> dict[str, Any]:
    """Returns the results of a method's runs, one number per seed; JSON."""
    return {
        "method": method.title,
        "row": method.name,
        "command": method.run.command,
        **costs(found),
        "validation": [summary["compact"]["validation"]["accuracy"] for summary in found],
        "accuracy": [summary["compact"]["test"]["accuracy"] for summary in found],
    }


def costs(found: Sequence[Summary]) -> dict[str, Any]:
    """Returns the costs of the compact models of runs, one number per seed; JSON.

    FLOPs and time are ratios of the compact form to the deep form of the same run (with the
    published method's ReLU where that was trained); times are those of the larger batch,
    interleaved. None where a run does not have both forms: nothing was collapsed, or a baseline
    keeps the shapes of the deep one and was not measured in its own.
    """
    return {
        "parameters": [parameters(summary) for summary in found],
        "collapsed": [summary["collapsed"] for summary in found],
        "flops_ratio": [_ratio(summary, _flops) for summary in found],
        "time_ratio": [_ratio(summary, _milliseconds) for summary in found],
    }


def percent(key: str) -> Callable[[dict[str, Any]], float | None]:
    """Returns a column's value: the mean in percent of the numbers that are not None."""

    def value(point: dict[str, Any]) -> float | None:
        known = [each for each in point[key] if each is not None]
        return 100 * statistics.mean(known) if known else None

    return value


def accuracy(key: str) -> Callable[[dict[str, Any]], str]:
    """Returns a column's value: mean and deviation of accuracies in percent."""
    return lambda point: mean_and_deviation([100 * each for each in point[key]])


def sizes(point: dict[str, Any]) -> str:
    """Returns a column's value: the numbers of parameters that occur."""
    return " / ".join(f"{size:,}" for size in sorted(set(point["parameters"])))


def site_counts(point: dict[str, Any]) -> str:
    """Returns a column's value: the numbers of collapsed sites that occur."""
    return " / ".join(map(str, sorted({len(each) for each in point["collapsed"]})))


COLUMNS = (
    Column("method", "method"),
    Column("parameters", sizes),
    Column("FLOPs, %", percent("flops_ratio"), "{:.1f}"),
    Column("time, %", percent("time_ratio"), "{:.1f}"),
    Column("collapsed", site_counts),
    Column("validation, %", accuracy("validation")),
    Column("test, %", accuracy("accuracy")),
    Column("seeds", lambda point: len(point["accuracy"])),
)


def _ratio(summary: Summary, of: Callable[[dict[str, Any]], float]) -> float | None:
    rows = summary.get("materialized") if "removed" in summary else summary
    if rows is None or not summary["collapsed"]:
        return None
    return of(rows["compact"]) / of(rows["deep"])


def _flops(row: dict[str, Any]) -> float:
    return next(value for key, value in row.items() if key.startswith("flops_per_"))


def _milliseconds(row: dict[str, Any]) -> float:
    return row["latency_ms"][max(row["latency_ms"], key=int)]
