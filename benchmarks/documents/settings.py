"""Tables of single settings: strength, gap, calibration data, which site, time of training."""

from typing import Any

from benchmarks.documents.results import (
    DASH,
    config,
    count,
    results,
    shown_method,
    with_deviation,
)
from benchmarks.harness.publish import Table

_DEEP = {"calibration", "sites"}


def sweep(name: str, header: str) -> Table:
    """Returns accuracy and size by the values of one setting of the Fashion-MNIST MLP.

    Args:
      name: of the setting in the results.
      header: of its column.
    """
    rows = [
        (
            point["value"],
            _percent(point["deep_accuracy"]),
            _percent(point["accuracy"]),
            f"{count(point['deep_parameters'])} → {count(point['parameters'])}",
        )
        for point in results("sweeps")[name]
    ]
    return Table((header, "deep, %", "compact, %", "parameters"), rows)


def _percent(values: list[float]) -> str:
    return with_deviation([100 * value for value in values])


def time_to_accuracy() -> Table:
    """Returns the seconds of training and surgery that each method needs for an accuracy."""
    points = results("time_to_accuracy")
    goals = (0.875, 0.88, 0.885, 0.89)
    rows = []
    for method in dict.fromkeys(point["method"] for point in points):
        mine = [point for point in points if point["method"] == method]
        given = [_least(mine, goal, "seconds") for goal in goals]
        with_deep = [_least(mine, goal, "seconds_with_deep") for goal in goals]
        cells = [f"{a} ({b})" if a != b else a for a, b in zip(given, with_deep, strict=True)]
        rows.append((shown_method(method), *cells))
    return Table(("seconds to", *(f"{100 * goal:g} %" for goal in goals)), rows)


def _least(points: list[dict[str, Any]], goal: float, key: str) -> str:
    reached = [
        point[key] for point in points if sum(point["accuracy"]) / len(point["accuracy"]) >= goal
    ]
    return f"{min(reached):.1f}" if reached else DASH


def unit_slopes() -> Table:
    """Returns size and accuracy of a ViT by what its slopes are of, and how they are chosen."""
    rows = [
        (
            shown_method(point["method"]),
            _span(point["parameters"]),
            _percent(point["accuracy"]),
        )
        for point in sorted(results("unit_slopes"), key=lambda each: -min(each["parameters"]))
    ]
    return Table(("units that become linear", "parameters", "compact, test %"), rows)


def _span(values: list[int]) -> str:
    """Returns the least and the most of numbers of parameters, or the one that all are."""
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def clients() -> Table:
    """Returns the models of other libraries that the tests collapse."""
    rows = [
        (
            f"{entry['package']} {entry['version']}",
            entry["client"],
            str(entry["sites"]),
            f"{entry['deep_flops']:,.0f} → {entry['compact_flops']:,.0f}",
        )
        for entry in sorted(results("clients"), key=lambda entry: entry["package"])
    ]
    return Table(("library", "model", "sites", "FLOPs of a call"), rows)


def costs() -> Table:
    """Returns what lcjax itself costs."""
    overhead = results("penalty_overhead")
    rows = [
        (f"slopes and penalty in a training step: {name}", _milliseconds(entry))
        for name, entry in overhead.items()
    ]
    for entry in results("scaling_in_size"):
        size = f"{entry['parameters'] / 1e6:,.0f} million parameters, bfloat16"
        fit = entry["calibration_seconds"] + entry["fitted_seconds"]
        rows.append((f"exact fuse of every FFN, {size}", f"{entry['fuse_seconds']:.3f} s"))
        what = f"calibration on {entry['tokens']:,} tokens, compilation included, and fit"
        rows.append((f"{what}, {size}", f"{fit:.1f} s"))
    stream = results("streaming_collapse-XL")
    seconds, peak = stream["seconds"]["command"], stream["peak_bytes"] / 2**20
    size = stream["bytes_in"] / 1e9
    rows.append(
        (
            f"`lcjax collapse` of GPT-2 XL, {size:.1f} GB on disk",
            f"{seconds:.0f} s, {peak:,.0f} MiB of memory",
        )
    )
    folder, made = results("folder_collapse"), config("folder_collapse")
    seconds, peak = folder["seconds"]["command"]["wall"], folder["peak_bytes"] / 2**20
    what = f"{made['depth']} layers of {made['preset']}, {folder['bytes_in'] / 1e9:.1f} GB on disk"
    rows.append(
        (f"`lcjax collapse-model` of {what}", f"{seconds:.0f} s, {peak:,.0f} MiB of memory")
    )
    return Table(("", "cost"), rows)


def _milliseconds(entry: dict[str, Any]) -> str:
    times = entry["milliseconds"]
    return (
        f"{times['plain']:.1f} → {times['with slopes']:.1f} ms, "
        f"{entry['ratio']['of_medians']:.2f} times"
    )
