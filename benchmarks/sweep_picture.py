"""The picture of a sweep: accuracy, and what is left of the parameters, by the setting's value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.bars import line


def draw(points: Sequence[dict[str, Any]], path: Path, *, about: str, default: str | None) -> Path:
    """Writes a PNG and returns its path.

    Args:
      points: in order, with `value`; `deep_accuracy` and `accuracy` (0 to 1), `deep_parameters` and
        `parameters`, one of each a seed: means are drawn, with a bar from lowest to highest.
      path: of the picture.
      about: what the setting is.
      default: the value that is marked, if any.
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    accuracy, size = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for key, label, style in (("deep_accuracy", "deep", ":s"), ("accuracy", "compact", "-o")):
        values = [[100 * each for each in point[key]] for point in points]
        line(accuracy, range(len(points)), values, label=label, fmt=style, capsize=3)
    left = [
        [
            100 * own / deep
            for own, deep in zip(point["parameters"], point["deep_parameters"], strict=True)
        ]
        for point in points
    ]
    line(size, range(len(points)), left, label="compact", fmt="-o", capsize=3)
    values = [point["value"] for point in points]
    size.set_xticks(range(len(values)), values)
    size.set(xlabel=about, ylabel="parameters left, %", ylim=(0, 105))
    accuracy.set(ylabel="test accuracy, %")
    accuracy.legend(frameon=False)
    for axes in (accuracy, size):
        axes.grid(alpha=0.3)
        if default in values:
            axes.axvline(values.index(default), color="grey", alpha=0.4, linestyle="--")
    figure.savefig(path, dpi=110)
    return path
