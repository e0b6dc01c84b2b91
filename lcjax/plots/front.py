"""The picture of a front: what a model loses against what it costs."""

from collections.abc import Sequence
from typing import NamedTuple

from lcjax.plots.picture import BLUE, INK, ORANGE, Picture, panels

Point = tuple[float, float]
_ABOVE, _BELOW = (8, 8), (-8, -14)  # places of labels off the falling line, in points


class Front(NamedTuple):
    """One panel: the drop of the metric against one quantity.

    Attributes:
      label: of the quantity, with its unit.
      predicted: (quantity, drop) of the choices on the front, by quantity.
      measured: of those that were carried out.
      chosen: of the choice, predicted.
      deep: of the deep model.
    """

    label: str
    predicted: Sequence[Point]
    measured: Sequence[Point]
    chosen: Point
    deep: Point


def plot_fronts(fronts: Sequence[Front], metric: str) -> Picture:
    """Returns a picture with a panel for each quantity.

    Args:
      fronts: the panels.
      metric: name of the metric.

    Raises:
      ImportError: without matplotlib.
    """
    figure, found = panels(len(fronts), (5.6 * len(fronts), 4.2), sharey=True)
    for axes, front in zip(found, fronts, strict=True):
        axes.plot(*zip(*front.predicted, strict=True), ".-", color=BLUE, linewidth=1.2)
        _name(axes, "deep", front.deep, INK, _BELOW)
        axes.scatter(*front.deep, s=36, color=INK, zorder=3)
        axes.scatter(*front.chosen, s=90, facecolor="none", edgecolor=BLUE, zorder=3)
        above = not front.measured or front.measured[-1][1] <= front.chosen[1]
        _name(axes, "chosen, predicted", front.chosen, BLUE, _ABOVE if above else _BELOW)
        if front.measured:
            axes.scatter(*zip(*front.measured, strict=True), s=36, color=ORANGE, zorder=4)
            _name(axes, "measured", front.measured[-1], ORANGE, _BELOW if above else _ABOVE)
        axes.set_xlabel(front.label)
        axes.margins(0.12)
        axes.xaxis.set_major_formatter(_thousands)
    found[0].set_ylabel(f"drop of {metric}: lower is better")
    return Picture(figure)


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:g}"


def _name(axes, text: str, point: Point, colour: str, offset: tuple[int, int]) -> None:
    axes.annotate(
        text,
        point,
        xytext=offset,
        textcoords="offset points",
        color=colour,
        fontsize=9,
        ha="left" if offset == _ABOVE else "right",
        annotation_clip=False,
    )
