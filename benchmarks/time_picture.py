"""The picture of times: accuracy against seconds of training, one line a way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.bars import line

_TITLES = {"seconds": "the deep model given", "seconds_with_deep": "its training counted"}


def draw(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Writes a PNG and returns its path.

    Args:
      points: with `method`, `seconds`, `seconds_with_deep`, and `accuracy` (0 to 1), one a seed:
        means are drawn, with a bar from lowest to highest.
      path: of the picture.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, _TITLES.items(), strict=True):
        for way in dict.fromkeys(point["method"] for point in points):
            mine = [point for point in points if point["method"] == way]
            accuracies = [[100 * each for each in point["accuracy"]] for point in mine]
            style = "-o" if way.startswith("lcjax") else ":s"
            seconds = [point[key] for point in mine]
            line(axes, seconds, accuracies, fmt=style, label=way, capsize=2)
        axes.set(xlabel="seconds of training", title=title)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy of the compact model, %")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    return path
