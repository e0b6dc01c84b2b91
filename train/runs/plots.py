"""The plot of a run: slopes over training, and quality against parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from train.runs.comparison import Row
from train.engine.loop import SLOPE
from train.tasks.metric import ACCURACY, Metric

_INK, _FAINT = "#222222", "#bbbbbb"


def plot_run(
    path: Path,
    title: str,
    metrics: Sequence[dict[str, Any]],
    rows: dict[str, Row],
    kept_models: Sequence[dict[str, Any]] = (),
    metric: Metric = ACCURACY,
) -> None:
    """Writes the plot of a run as a PNG.

    Args:
      path: of the PNG.
      title: above the plot.
      metrics: records of the run, in order.
      rows: the forms of the model with "parameters" and "test", the deep one first.
      kept_models: models saved during training, with the same.
      metric: of the models.
    """
    figure = Figure(figsize=(11, 4.4), dpi=160, layout="constrained")
    figure.suptitle(title, color=_INK, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    _plot_slopes(left, metrics)
    _plot_forms(right, rows, kept_models, metric)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_FAINT)
        axes.tick_params(colors=_INK, length=3)
        axes.grid(axis="y", color=_FAINT, alpha=0.35, linewidth=0.6)
    figure.savefig(path)


def _plot_slopes(axes: Axes, metrics: Sequence[dict[str, Any]]) -> None:
    records = [record for record in metrics if "train/loss" in record]
    names = list(dict.fromkeys(n for record in records for n in record if n.startswith(SLOPE)))
    colours = matplotlib.colormaps["viridis"].resampled(max(2, len(names)))
    axes.axhline(1, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for i, name in enumerate(names):
        points = [(record["step"], record[name]) for record in records if name in record]
        label = f"{name.removeprefix(SLOPE)}  {points[-1][1]:.2f}"
        axes.plot(
            *zip(*points, strict=True),
            color=colours(0.92 * i / max(1, len(names) - 1)),
            label=label,
        )
    axes.set(xlabel="step", ylabel="slope", xlim=(0, records[-1]["step"] if records else 1))
    axes.set_title("slopes: 0 is the activation, 1 the identity", loc="left", fontsize=10)
    if names:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            fontsize=7,
            frameon=False,
            labelspacing=0.35,
        )


def _plot_forms(
    axes: Axes, rows: dict[str, Row], kept_models: Sequence[dict[str, Any]], metric: Metric
) -> None:
    sizes = [row["parameters"] for row in rows.values()]
    values = [metric.value(row["test"]) for row in rows.values()]
    axes.plot(sizes, values, color=_FAINT, linewidth=1.2, zorder=1)
    axes.scatter(
        sizes, values, s=70, color=["#440154", "#2a9d8f", "#e9a23b"][: len(rows)], zorder=2
    )
    for (name, row), size, value in zip(rows.items(), sizes, values, strict=True):
        axes.annotate(
            f"{name}\n{metric.show(row['test'])}\n{size:,}",
            (size, value),
            xytext=(0, 12),
            textcoords="offset points",
            ha="center",
            color=_INK,
            fontsize=9,
        )
    points = [(entry["parameters"], metric.value(entry["test"])) for entry in kept_models]
    if points:
        axes.scatter(*zip(*points, strict=True), s=22, color=_FAINT, edgecolor=_INK, zorder=1)
        values += [value for _, value in points]
        sizes += [size for size, _ in points]
    middle = (max(values) + min(values)) / 2
    reach = max(metric.min_axis_range, 1.5 * (max(values) - min(values)))
    axes.set(
        xlabel="parameters",
        ylabel=f"test {metric.axis}",
        xlim=(0, 1.2 * max(sizes)),
        ylim=(middle - reach, middle + reach),
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("before and after the collapse", loc="left", fontsize=10)
