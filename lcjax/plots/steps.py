"""The picture of a plan: a row for each site in the order in which sites are collapsed."""

from collections.abc import Sequence
from typing import NamedTuple

from lcjax.plots.picture import BLUE, INK, Picture, panels


class Step(NamedTuple):
    """One more site collapsed.

    Attributes:
      name: the site, or "deep".
      metric: measured.
      parameters: of the model.
      taken: whether the plan takes it.
    """

    name: str
    metric: float
    parameters: int
    taken: bool


def plot_steps(steps: Sequence[Step], title: str) -> Picture:
    """Returns a picture of the metric and the size after each step.

    Args:
      steps: the deep model first.
      title: above the picture.

    Raises:
      ImportError: without matplotlib.
    """
    high = min(0.32, 24 / len(steps))
    text = max(4.0, min(9.0, 26 * high))
    figure, (metric, size) = panels(2, (9, 1.5 + high * len(steps)), sharey=True)
    metric.plot(
        [step.metric for step in steps], range(len(steps)), color=INK, linewidth=0.8, alpha=0.5
    )
    for place, step in enumerate(steps):
        colour = BLUE if step.taken else INK
        face = colour if step.taken else "none"
        metric.scatter(step.metric, place, s=34, facecolor=face, edgecolor=colour, zorder=3)
        bar = {"facecolor": face, "edgecolor": colour, "linewidth": 0.8}
        size.barh(place, step.parameters, height=0.62, **bar)
        for axes, value, shown in (
            (metric, step.metric, f"{step.metric:.4g}"),
            (size, step.parameters, f"{step.parameters:,}"),
        ):
            axes.annotate(
                shown,
                (value, place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=text,
                annotation_clip=False,
            )
    names = [step.name if step.taken else f"{step.name} (not taken)" for step in steps]
    metric.set_yticks(range(len(steps)), names, fontsize=text)
    metric.set_ylim(len(steps) - 0.4, -0.6)  # the deep model on top
    metric.set_ylabel("one more site in each row")
    metric.margins(x=0.15)
    metric.set_xlabel("metric: higher is better")
    size.set_xlabel("parameters")
    size.ticklabel_format(axis="x", style="plain")
    size.locator_params(axis="x", nbins=4)
    size.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (metric, size):
        axes.grid(visible=False, axis="y")
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=10)
    return Picture(figure)
