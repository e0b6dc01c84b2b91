"""The picture of the noisy cubic: one panel a way to regularise."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def draw(
    ways: Sequence[dict[str, Any]],
    points: tuple[np.ndarray, np.ndarray],
    curve: Callable[[Any], Any],
    path: Path,
) -> Path:
    """Writes a PNG and returns its path.

    Args:
      ways: with `method`, `strength`, and `curves` and `error`, one of each a seed.
      points: x and y that the first seed is fitted to.
      curve: that is to be found, on [-1, 1].
      path: of the picture.
    """
    figure = Figure(figsize=(3.2 * len(ways), 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    grid = np.linspace(-1, 1, len(ways[0]["curves"][0]))
    for axes, way in zip(panels, ways, strict=True):
        for other in way["curves"][1:]:
            axes.plot(grid, other, color="0.8", linewidth=0.8)
        axes.plot(grid, curve(grid), color="0.3", linestyle="--", linewidth=1, label="the cubic")
        axes.plot(grid, way["curves"][0], color="C0", label="fitted, after collapse")
        axes.scatter(*points, s=14, color="C1", zorder=3, label="noisy points")
        mean = sum(way["error"]) / len(way["error"])
        axes.set_title(f"{way['method']}\nRMSE to the cubic {mean:.3f}", fontsize=10)
        axes.set(xlabel="x", ylim=(-5, 3))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False, loc="lower center")
    figure.savefig(path)
    return path
