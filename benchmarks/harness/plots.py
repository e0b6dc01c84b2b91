"""The plots of the benchmarks: each function writes a PNG and returns its path."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.harness.representatives import Role, representatives
from lcjax.plots.labels import label_ends
from lcjax.plots.picture import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, Picture, panels

_TIMES = {"seconds": "deep model given", "seconds_with_deep": "deep model's training included"}
_COLOURS: dict[Role, str] = {
    "deep": INK,
    "ours": ORANGE,
    "ours with a teacher": ORANGE,
    "baseline": BLUE,
    "baseline with a teacher": BLUE,
}


def plot_pareto_front(points: Sequence[dict[str, Any]], path: Path, *, network: str) -> Path:
    """Plots accuracy against parameters: the best methods by name, the others in grey.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each per seed.
      path: of the PNG.
      network: its description, for the title.
    """
    roles = representatives(points)
    figure, (axes,) = panels(1, (10, 5.4))
    methods = list(dict.fromkeys(point["method"] for point in points))
    ends, shown = [], []
    for method in sorted(methods, key=lambda each: each in roles):  # those in grey first
        mine = sorted(
            (statistics.mean(point["parameters"]) / 1e3, [100 * a for a in point["accuracy"]])
            for point in points
            if point["method"] == method
        )
        sizes, values = [size for size, _ in mine], [each for _, each in mine]
        if method not in roles:
            _mean_line(axes, sizes, values, color=FAINT, fmt=".-", linewidth=1, zorder=1)
            continue
        colour = _COLOURS[roles[method]]
        line = "-o" if roles[method].startswith("ours") else "--s"
        _mean_line(axes, sizes, values, color=colour, fmt=line, markersize=5, capsize=2, zorder=3)
        shown += [statistics.mean(each) for each in values]
        label = "deep model" if roles[method] == "deep" else method.removeprefix("lcjax: ")
        label += " (lcjax)" if roles[method].startswith("ours") else ""
        ends.append((label, sizes[-1], statistics.mean(values[-1]), colour))
    grey = len(methods) - len(roles)
    low, high = min(shown) - 3, max(shown) + 1
    axes.set(xlabel="parameters, thousands", ylabel="test accuracy, %", ylim=(low, high))
    axes.set_title(
        f"{network}: best of lcjax (orange) and best baselines (blue), with and without a teacher."
        f"\nBars: lowest and highest seed. Grey: the {grey} other methods of the table, some of "
        "them below the axis.",
        loc="left",
        fontsize=9,
        color=INK,
    )
    label_ends(axes, ends)
    return _saved(figure, path)


def plot_methods(points: Sequence[dict[str, Any]], path: Path, *, network: str) -> Path:
    """Plots the accuracies of methods for one size, one line per method, one dot per seed.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each per seed.
      path: of the PNG.
      network: its description, for the title.
    """
    figure, (axes,) = panels(1, (9, 0.36 * len(points) + 1.4))
    labels = []
    for place, point in enumerate(points):
        ours, deep = point["method"].startswith("lcjax"), point["method"].startswith("deep")
        colour = ORANGE if ours else INK if deep else BLUE
        accuracies = [100 * each for each in point["accuracy"]]
        mean = statistics.mean(accuracies)
        axes.plot(accuracies, [place] * len(accuracies), "o", color=colour, alpha=0.5)
        axes.plot(mean, place, "|", color=colour, markersize=18)
        axes.annotate(
            f"{mean:.2f}",
            (max(accuracies), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
        )
        labels.append(f"{point['method']}  ({statistics.mean(point['parameters']):,.0f})")
    axes.set_yticks(range(len(points)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="test accuracy, %", ylabel="method (parameters)")
    axes.set_title(
        f"{network}: a dot for each seed, a bar for their mean\n"
        "grey: deep model, orange: lcjax, blue: others",
        loc="left",
        fontsize=9,
        color=INK,
    )
    return _saved(figure, path)


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
    figure, (accuracy, size) = panels(
        2, (7.5, 5.4), across=False, sharex=True, height_ratios=(2, 1)
    )
    places = range(len(points))
    deep, compact = (
        [[100 * each for each in point[key]] for point in points]
        for key in ("deep_accuracy", "accuracy")
    )
    hollow = {"markerfacecolor": "none", "markersize": 10}  # seen around the other
    ordered = all(point["value"].replace(".", "").isdigit() for point in points)  # by number
    for values, colour, line, style in ((deep, INK, ":s", hollow), (compact, ORANGE, "-o", {})):
        fmt = line if ordered else line[1]
        _mean_line(accuracy, places, values, color=colour, fmt=fmt, capsize=3, **style)
    remaining = [
        [
            100 * own / deep
            for own, deep in zip(point["parameters"], point["deep_parameters"], strict=True)
        ]
        for point in points
    ]
    _mean_line(size, places, remaining, color=ORANGE, fmt="-o" if ordered else "o", capsize=3)
    values = [point["value"] for point in points]
    size.set_xticks(places, values)
    size.set(ylabel="parameters left, %", ylim=(0, 108))
    size.set_xlabel(label, wrap=True)
    accuracy.set(ylabel="test accuracy, %")
    seeds = len(points[0]["accuracy"])
    accuracy.set_title(
        f"Fashion-MNIST, mean of {seeds} seeds; bars: lowest and highest"
        + (f"; vertical line: the default, {default}" if default in values else ""),
        loc="left",
        fontsize=9,
        color=INK,
    )
    for axes in (accuracy, size):
        if default in values:
            axes.axvline(values.index(default), color=INK, linewidth=0.8, linestyle="--")
    last, names = len(points) - 1, (("deep", deep, INK), ("compact", compact, ORANGE))
    label_ends(accuracy, [(n, last, statistics.mean(v[-1]), c) for n, v, c in names])
    label_ends(size, [("compact", last, statistics.mean(remaining[-1]), ORANGE)])
    return _saved(figure, path)


def plot_time_to_accuracy(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plots accuracy against seconds of training, one line per method.

    Args:
      points: with `method`, `seconds`, `seconds_with_deep`, and `accuracy` (0 to 1), one per seed.
      path: of the PNG.
    """
    figure, found = panels(len(_TIMES), (11, 4.6), sharey=True)
    methods = list(dict.fromkeys(point["method"] for point in points))
    many = (ORANGE, RED, BLUE, GREEN, PURPLE, *[INK] * len(methods))
    colours = dict(zip(methods, many, strict=False))
    ends: list[tuple[str, float, float, str]] = []
    for axes, (key, title) in zip(found, _TIMES.items(), strict=True):
        ends.clear()
        for method in methods:
            mine = [point for point in points if point["method"] == method]
            accuracies = [[100 * each for each in point["accuracy"]] for point in mine]
            style = "-o" if method.startswith("lcjax") else ":s"
            seconds = [point[key] for point in mine]
            _mean_line(axes, seconds, accuracies, fmt=style, color=colours[method], capsize=2)
            mean = statistics.mean(accuracies[-1])
            ends.append((method, seconds[-1], mean, colours[method]))
        axes.set(xlabel="seconds of training")
        text = f"{title}; bars: lowest and highest seed"
        axes.set_title(text, loc="left", fontsize=9, color=INK)
        axes.set_xlim(left=0)
        axes.margins(y=0.12)
    label_ends(found[-1], ends)
    found[0].set_ylabel("test accuracy of the compact model, %")
    return _saved(figure, path)


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
    figure, found = panels(len(methods), (3.2 * len(methods), 3.6), sharey=True)
    grid = np.linspace(-1, 1, len(methods[0]["curves"][0]))
    for axes, method in zip(found, methods, strict=True):
        for other in method["curves"][1:]:
            axes.plot(grid, other, color=FAINT, linewidth=1.2)
        axes.plot(grid, curve(grid), color=INK, linestyle="--", linewidth=1)
        axes.plot(grid, method["curves"][0], color=BLUE)
        axes.scatter(*points, s=14, color=ORANGE, zorder=3)
        mean = statistics.mean(method["error"])
        axes.set_title(f"{method['method']}\nRMSE to the cubic {mean:.3f}", fontsize=10, color=INK)
        axes.set(xlabel="x", ylim=(-5, 3))
    found[0].set_ylabel("y")
    words = (
        ("the cubic (dashed)", INK),
        ("fit, after collapse", BLUE),
        ("fits of other seeds", INK),
        ("noisy points", ORANGE),
    )
    for line, (text, colour) in enumerate(words):
        place = {"ha": "center", "transform": found[0].transAxes, "fontsize": 8}
        faint = 0.6 if "other" in text else 1.0
        found[0].text(0.6, 0.32 - 0.08 * line, text, color=colour, alpha=faint, **place)
    return _saved(figure, path)


def _mean_line(
    axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any
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


def _saved(figure: Any, path: Path) -> Path:
    Picture(figure).save(path)
    return path
