"""The picture of a front: accuracy against parameters, one line a method."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.bars import line


def draw(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Writes a PNG and returns its path.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each a seed; means are
        drawn, with a bar from the lowest to the highest accuracy.
      path: of the picture.
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
        line(
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
