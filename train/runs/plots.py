"""The picture of a run: slopes over training, and the size and quality of each form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from lcjax.plots.labels import label_ends
from lcjax.plots.picture import BLUE, INK, ORANGE, Picture, panels
from train.engine.loop import SLOPE
from train.runs.comparison import Row
from train.tasks.metric import ACCURACY, Metric

_LINEAR = 0.05  # a slope so near to 1 is drawn as that of a linear site
_MOST_LABELS = 24


def plot_run(
    path: Path,
    title: str,
    metrics: Sequence[dict[str, Any]],
    rows: dict[str, Row],
    kept_models: Sequence[dict[str, Any]] = (),
    metric: Metric = ACCURACY,
) -> None:
    """Writes the picture of a run.

    On the left the slopes that training moved, or the loss where it moved none; on the right a bar
    for the size of each form, with its quality.

    Args:
      path: of the picture; its suffix says the format.
      title: above it.
      metrics: records of the run, in order.
      rows: the forms of the model with "parameters" and "test", the deep one first.
      kept_models: models saved during training, with the same, and "step".
      metric: of the models.
    """
    figure, (left, right) = panels(2, (11.5, 4.4), width_ratios=(1.6, 1))
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontweight="bold")
    _plot_training(left, [record for record in metrics if "train/loss" in record])
    kept = {f"step {each['step']:,}": each for each in kept_models}
    first, *others = rows.items()
    _plot_forms(right, dict([first, *kept.items(), *others]), metric)
    Picture(figure).save(path)


def _plot_training(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(n for record in records for n in record if n.startswith(SLOPE)))
    curves = {
        name.removeprefix(SLOPE): [(r["step"], r[name]) for r in records if name in r]
        for name in names
    }
    still = [name for name, curve in curves.items() if len({slope for _, slope in curve}) == 1]
    moved = {name: curve for name, curve in curves.items() if name not in still}
    axes.set(xlabel="step", xlim=(0, max([record["step"] for record in records], default=1)))
    if moved:
        axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        _plot_slopes(axes, moved)
        text = "slopes: 0 is the activation, 1 the identity"
    else:
        points = [(record["step"], record["train/loss"]) for record in records]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=BLUE)
        axes.set_ylabel("training loss")
        text = "training loss"
    if still:
        places = sorted({f"{curves[name][-1][1]:.2f}" for name in still})
        which = still[0] + (f" and {len(still) - 1} more" if len(still) > 1 else "")
        text += f"\nunchanged at {' and '.join(places)}: {which}"
    axes.set_title(text, loc="left", fontsize=9, color=INK, pad=12)  # over the topmost label


def _plot_slopes(axes: Axes, curves: dict[str, list[tuple[float, float]]]) -> None:
    ends = []
    for name, curve in curves.items():
        step, slope = curve[-1]
        colour = ORANGE if abs(1 - slope) <= _LINEAR else BLUE
        axes.plot(*zip(*curve, strict=True), color=colour, alpha=0.8, label=name)
        ends.append((f"{name}  {slope:.2f}", step, slope, colour))
    axes.set_ylabel("slope")
    if len(ends) > _MOST_LABELS:
        linear = sum(colour == ORANGE for *_, colour in ends)
        ends = [
            (f"{linear} of {len(ends)} sites linear", ends[0][1], 1.0, ORANGE),
            (f"{len(ends) - linear} others", ends[0][1], axes.get_ylim()[0], BLUE),
        ]
    label_ends(axes, ends, size=8 if len(ends) < 14 else 6)


def _plot_forms(axes: Axes, rows: dict[str, Row], metric: Metric) -> None:
    size = 9 if len(rows) < 12 else 6
    for place, (name, row) in enumerate(rows.items()):
        colour = INK if place == 0 else BLUE if name.startswith("step ") else ORANGE
        axes.barh(place, row["parameters"], height=0.6, color=colour)
        axes.annotate(
            f"{row['parameters']:,}\n{metric.show(row['test'])}"
            if len(rows) < 6
            else f"{row['parameters']:,}, {metric.show(row['test'])}",
            (row["parameters"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=size,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(rows)), list(rows), fontsize=size)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the deep form on top
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    quality = metric.axis.partition(",")[0]
    axes.set_title(f"size, and test {quality}", loc="left", fontsize=9, color=INK)
