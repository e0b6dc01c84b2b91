"""The picture of a plan of fits: what a model loses against its size and its time."""

from collections.abc import Sequence

from lcjax.planning.budgets import Quantity
from lcjax.planning.table import FitTable, Round
from lcjax.plots.front import Front, plot_fronts
from lcjax.plots.picture import Picture


def plot_front(
    table: FitTable, choice: tuple[int, ...], rounds: Sequence[Round], metric: str
) -> Picture:
    """Returns the predicted front and what was measured; a panel for parameters, one for time.

    Args:
      table: of the plan.
      choice: of the plan.
      rounds: that were carried out.
      metric: its name.

    Raises:
      ImportError: without matplotlib.
    """
    quantities: list[tuple[Quantity, str]] = [("parameters", "parameters")]
    if table.deep.ms is not None:
        quantities.append(("ms", "milliseconds for a batch"))
    chosen = table.usage(choice)
    measured = [each.measured for each in rounds]
    fronts = []
    for quantity, label in quantities:
        usages = [table.usage(each) for each in table.front(quantity)]
        fronts.append(
            Front(
                label,
                predicted=[(getattr(usage, quantity), usage.drop) for usage in usages],
                measured=[(getattr(each, quantity), each.drop) for each in measured],
                chosen=(getattr(chosen, quantity), chosen.drop),
                deep=(getattr(table.deep, quantity), table.deep.drop),
            )
        )
    return plot_fronts(fronts, metric)
