"""The picture of a plan of fits: what a model loses against its size and its time."""

import os
from collections.abc import Sequence
from typing import Any

from lcjax.planning.budgets import Quantity
from lcjax.planning.table import FitTable, Round


def plot_front(
    table: FitTable,
    choice: tuple[int, ...],
    rounds: Sequence[Round],
    path: str | os.PathLike[str],
) -> None:
    """Plots the predicted front and what was measured; one panel for parameters, one for time.

    Args:
      table: of the plan.
      choice: of the plan.
      rounds: that were carried out.
      path: of the picture; its suffix says the format.

    Raises:
      ImportError: without matplotlib, which lcjax's extra `train` brings.
    """
    axes: list[tuple[Quantity, str]] = [("parameters", "parameters")]
    if table.deep.ms is not None:
        axes.append(("ms", "ms for a batch"))
    figure = _figure(len(axes))
    for number, (quantity, label) in enumerate(axes, 1):
        panel = figure.add_subplot(1, len(axes), number)
        usages = [table.usage(each) for each in table.front(quantity)]
        points = [(getattr(usage, quantity), usage.drop) for usage in usages]
        panel.plot(*zip(*points, strict=True), ".-", color="C0", label="predicted")
        measured = [(getattr(each.measured, quantity), each.measured.drop) for each in rounds]
        if measured:
            panel.scatter(*zip(*measured, strict=True), color="C1", zorder=3, label="measured")
        chosen = table.usage(choice)
        panel.scatter(
            getattr(chosen, quantity), chosen.drop, s=80, facecolor="none", edgecolor="C0"
        )
        panel.set(xlabel=label, ylabel="drop of the metric")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(os.fspath(path), dpi=150, bbox_inches="tight")


def _figure(panels: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("FitPlan.plot needs matplotlib: pip install 'lcjax[train]'.") from error
    return Figure(figsize=(6 * panels, 4.5))
