"""The plots of the benchmarks: each function writes a PNG and returns its path."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

_TIMES = {"seconds": "deep model given", "seconds_with_deep": "deep model's training included"}


def plot_pareto_front(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plots accuracy against parameters, one line per method.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each per seed.
      path: of the PNG.
    """
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(point["method"] for point in points))
    for number, method in enumerate(methods):
        ours = method.startswith("lcjax")
        mine = sorted(
            (statistics.mean(point["parameters"]) / 1e3, [100 * a for a in point["accuracy"]])
            for point in points
            if point["method"] == method
        )
        _mean_line(
            axes,
            [size for size, _ in mine],
            [accuracies for _, accuracies in mine],
            label=method,
            color=colormaps["tab20"](number % 20),
            linestyle="-" if ours else ":",
            marker="o" if ours else "s",
            markersize=6 if ours else 4,
            capsize=2,
        )
    axes.set(xlabel="parameters, thousands", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=120)
    return path


def plot_methods(points: Sequence[dict[str, Any]], path: Path, *, network: str) -> Path:
    """Plots the accuracies of methods for one size, one line per method, one dot per seed.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each per seed.
      path: of the PNG.
      network: its description, for the title.
    """
    figure = Figure(figsize=(9, 0.36 * len(points) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    labels = []
    for place, point in enumerate(points):
        colour = "tab:orange" if point["method"].startswith("lcjax") else "tab:blue"
        accuracies = [100 * each for each in point["accuracy"]]
        axes.plot(accuracies, [place] * len(accuracies), "o", color=colour, alpha=0.5)
        axes.plot(statistics.mean(accuracies), place, "|", color=colour, markersize=18)
        labels.append(f"{point['method']}  ({statistics.mean(point['parameters']):,.0f})")
    axes.set_yticks(range(len(points)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title=f"{network}; parameters in brackets")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def plot_sweep(
    points: Sequence[dict[str, Any]], path: Path, *, label: str, default: str | None
) -> Path:
    """Plots accuracy and remaining parameters against the values of one setting.

    Args:
      points: in order, with `value`; `deep_accuracy` and `accuracy` (0 to 1), `deep_parameters` and
        `parameters`, one of each per seed.
      path: of the PNG.
      label: of the setting.
      default: the value to mark, if any.
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    accuracy, size = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for key, name, style in (("deep_accuracy", "deep", ":s"), ("accuracy", "compact", "-o")):
        values = [[100 * each for each in point[key]] for point in points]
        _mean_line(accuracy, range(len(points)), values, label=name, fmt=style, capsize=3)
    remaining = [
        [
            100 * own / deep
            for own, deep in zip(point["parameters"], point["deep_parameters"], strict=True)
        ]
        for point in points
    ]
    _mean_line(size, range(len(points)), remaining, label="compact", fmt="-o", capsize=3)
    values = [point["value"] for point in points]
    size.set_xticks(range(len(values)), values)
    size.set(xlabel=label, ylabel="parameters left, %", ylim=(0, 105))
    accuracy.set(ylabel="test accuracy, %")
    accuracy.legend(frameon=False)
    for axes in (accuracy, size):
        axes.grid(alpha=0.3)
        if default in values:
            axes.axvline(values.index(default), color="grey", alpha=0.4, linestyle="--")
    figure.savefig(path, dpi=110)
    return path


def plot_time_to_accuracy(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plots accuracy against seconds of training, one line per method.

    Args:
      points: with `method`, `seconds`, `seconds_with_deep`, and `accuracy` (0 to 1), one per seed.
      path: of the PNG.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, _TIMES.items(), strict=True):
        for method in dict.fromkeys(point["method"] for point in points):
            mine = [point for point in points if point["method"] == method]
            accuracies = [[100 * each for each in point["accuracy"]] for point in mine]
            style = "-o" if method.startswith("lcjax") else ":s"
            seconds = [point[key] for point in mine]
            _mean_line(axes, seconds, accuracies, fmt=style, label=method, capsize=2)
        axes.set(xlabel="seconds of training", title=title)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy of the compact model, %")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    return path


def plot_cubic(
    methods: Sequence[dict[str, Any]],
    points: tuple[np.ndarray, np.ndarray],
    curve: Callable[[Any], Any],
    path: Path,
) -> Path:
    """Plots the fits of a noisy cubic, one panel per regulariser.

    Args:
      methods: with `method`, and `curves` and `error`, one of each per seed.
      points: x and y of the first seed's training points.
      curve: the true one, on [-1, 1].
      path: of the PNG.
    """
    figure = Figure(figsize=(3.2 * len(methods), 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    grid = np.linspace(-1, 1, len(methods[0]["curves"][0]))
    for axes, method in zip(panels, methods, strict=True):
        for other in method["curves"][1:]:
            axes.plot(grid, other, color="0.8", linewidth=0.8)
        axes.plot(grid, curve(grid), color="0.3", linestyle="--", linewidth=1, label="cubic")
        axes.plot(grid, method["curves"][0], color="C0", label="fit, after collapse")
        axes.scatter(*points, s=14, color="C1", zorder=3, label="noisy points")
        mean = statistics.mean(method["error"])
        axes.set_title(f"{method['method']}\nRMSE to the cubic {mean:.3f}", fontsize=10)
        axes.set(xlabel="x", ylim=(-5, 3))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False, loc="lower center")
    figure.savefig(path)
    return path


def _mean_line(
    axes: Any, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any
) -> None:
    """Draws a line through the means, with a bar from the lowest to the highest value at each.

    Args:
      axes: of matplotlib.
      x: of the points.
      values: of each point, one per seed.
      **style: of `axes.errorbar`.
    """
    means = [statistics.mean(each) for each in values]
    low = [mean - min(each) for mean, each in zip(means, values, strict=True)]
    high = [max(each) - mean for mean, each in zip(means, values, strict=True)]
    axes.errorbar(x, means, yerr=[low, high], **style)
