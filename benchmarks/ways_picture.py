"""The picture of ways to one size: a line each, with what every seed came to."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(points: Sequence[dict[str, Any]], path: Path, *, about: str) -> Path:
    """Writes a PNG and returns its path.

    Args:
      points: with `method`, and `parameters` and `accuracy` (0 to 1), one of each a seed; every
        seed is drawn, and the mean as a bar.
      path: of the picture.
      about: what the network is.
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
    axes.set(xlabel="test accuracy, %", title=f"{about}; parameters in brackets")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    return path
