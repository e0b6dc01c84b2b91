"""The plan of a fit for each site: what was chosen, what it costs, and at other budgets."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from lcjax._document import Document, Table
from lcjax.calibration.fits import Fit
from lcjax.planning.budgets import Budget, Usage, as_budgets
from lcjax.planning.fit_plan_json import details_of, plan_fields
from lcjax.planning.front_plot import plot_front
from lcjax.planning.plan_file import PlanFile, PlannedSite
from lcjax.planning.table import FitTable, Round, agrees, became
from lcjax.plots.picture import Picture
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree


@dataclass(frozen=True, kw_only=True)
class FitPlan(Document):
    """The fit of each site within budgets; prints what each site becomes and what it costs.

    Carry it out with `lcjax.collapse_sequential(apply_fn, variables, data, fit=plan.fits)`.

    Attributes:
      table: what each fit of each site costs alone.
      choice: index of the option of each site in the table.
      budgets: as the user wrote them.
      unmet: those of them that the measured model does not meet.
      metric: name of the metric.
      baseline: metric of the deep model.
      rounds: the choices that were carried out.
      tolerance: largest difference of the measured drop from the predicted one, relative to the
        larger of the two, that is not refined.
      notes: further remarks: fits that a site cannot have, sites that cannot be fitted.

    Example:
      >>> import jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> of = dict(metric=lcjax.RelativeError(), candidates=[lcjax.LeastSquares()])
      >>> plan = lcjax.plan_fits(model.apply, variables, data, budget=lcjax.Count(1), **of)
      >>> plan.fits, plan.measured.parameters
      ({'act_0': LeastSquares()}, 15)
      >>> _, report = lcjax.collapse_sequential(model.apply, variables, data, fit=plan.fits)
    """

    table: FitTable
    choice: tuple[int, ...]
    budgets: tuple[str, ...]
    metric: str
    baseline: float
    tolerance: float
    unmet: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> dict[str, Fit]:
        """The fits by site; sites that stay are left out."""
        return self.table.fits(self.choice)

    @property
    def predicted(self) -> Usage:
        """What the model was predicted to cost, before any measurement of it."""
        found = (each.predicted for each in self.rounds if each.choice == self.choice)
        return next(found, self.table.usage(self.choice))

    @property
    def measured(self) -> Usage | None:
        """What the model costs, measured; None where this choice was not carried out."""
        found = (each.measured for each in self.rounds if each.choice == self.choice)
        return next(found, None)

    @property
    def pareto_front(self) -> tuple["FitPlan", ...]:
        """The plans on the Pareto front of parameters and drop, the smallest first."""
        return tuple(
            replace(self, choice=choice, budgets=(), unmet=()) for choice in self.table.front()
        )

    def at(self, budget: Budget | Sequence[Budget]) -> "FitPlan":
        """Returns the plan within another budget, from the same measurements.

        Args:
          budget: one or several, as for `lcjax.plan_fits`.

        Raises:
          ValueError: budgets that cannot be met; says the nearest that is possible.
        """
        budgets = as_budgets(budget)
        other = replace(
            self,
            choice=self.table.choose(budgets),
            budgets=tuple(map(str, budgets)),
            unmet=(),
        )
        if other.measured is None:
            return other
        unmet = [str(each) for each in budgets if not each.met(other.measured, self.table.deep)]
        return replace(other, unmet=tuple(unmet))

    def check(self, model: Mapping[str, Any] | Collapsible) -> None:
        """Raises CollapseError unless the plan is for this model: its sites, widths and weights.

        Args:
          model: params or variables, as `lcjax.plan_fits` takes them; or a traced call, as
            `lcjax.collapsible(fn).trace` returns it.
        """
        tree = isinstance(model, Mapping)
        self._file({}).check(ParamsTree(model, caller="check") if tree else model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a JSON file, which `load` and `lcjax collapse --plan` read."""
        self._file(details_of(self)).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the plan that `save` wrote.

        Raises:
          OSError: if the file does not exist or cannot be opened.
          ValueError: when it is not such a plan.
        """
        return cls(**plan_fields(PlanFile.load(path), path))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes every fit of every site with its costs, and which ones are chosen."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("site", "fit", "chosen", *Usage._fields, "held_out_r2"))
            for site, chosen in zip(self.table.sites, self.choice, strict=True):
                for i, option in enumerate(site.options):
                    name = became(option.fit, site.widths)
                    row = (site.site, name, int(i == chosen), *option.change, option.held_out_r2)
                    writer.writerow(["" if cell is None else cell for cell in row])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """Returns a picture of the drop against parameters, and against time where it was measured.

        Args:
          path: writes it to this file as well, as SVG, PNG or PDF by the suffix.

        Raises:
          ImportError: without matplotlib, which lcjax's extra `plots` brings.
          ValueError: another suffix.
        """
        picture = plot_front(self.table, self.choice, self.rounds, self.metric)
        return picture if path is None else picture.saved(path)

    def _parts(self) -> list[Table | str]:
        """Returns a table of the sites, the totals, and whether the budgets are met."""
        timed = self.table.deep.ms is not None
        headers = ["site", "becomes", "drop alone", "parameters", "held-out R²"]
        rows = []
        for site, chosen in zip(self.table.sites, self.choice, strict=True):
            option = site.options[chosen]
            r2 = option.held_out_r2
            cells = [
                site.site,
                became(option.fit, site.widths),
                f"{option.change.drop:.4g}",
                f"{option.change.parameters:,}",
                "–" if r2 is None else f"{r2:.4f}",
            ]
            rows.append(cells + [f"{option.change.ms:+.3f}"] if timed else cells)
        names = headers + ["ms"] if timed else headers
        lines: list[Table | str] = [Table(names, rows, left=2)]
        measured = self.measured
        models = [("deep", self.table.deep), ("predicted", self.predicted)]
        models += [] if measured is None else [("measured", measured)]
        lines += [f"{name}: {_totals(usage)}" for name, usage in models]
        lines += [] if measured is None else [self._agreement()]
        lines += self.notes
        for budget in self.budgets:
            state = "predicted" if measured is None else "met"
            lines.append(f"budget {budget}: {'not met' if budget in self.unmet else state}")
        lines.append(f"metric {self.metric}: {self.baseline:.6g} of the deep model")
        return lines

    def _agreement(self) -> str:
        """Returns how the measured drop compares with the predicted one, and what was done."""
        first = self.rounds[0]
        text = f"drop predicted {first.predicted.drop:.4g}, measured {first.measured.drop:.4g}"
        others = len(self.rounds) - 1
        if agrees(first.predicted.drop, first.measured.drop, self.tolerance):
            text += f": within the tolerance of {self.tolerance:.0%}"
            if not others:
                return text
        else:
            text += f": differs by more than {self.tolerance:.0%}; measured again around the choice"
        if not others:
            return f"{text}, no better one found"
        return f"{text}, {others} other{'' if others == 1 else 's'} carried out, the best returned"

    def _file(self, details: dict[str, Any]) -> PlanFile:
        sites = {
            site.site: PlannedSite(site.options[i].fit, site.widths, site.weights)
            for site, i in zip(self.table.sites, self.choice, strict=True)
        }
        return PlanFile(sites, details)


def _totals(usage: Usage) -> str:
    parts = [f"drop {usage.drop:.4g}", f"{usage.parameters:,} parameters"]
    parts.append(f"{usage.flops:,} FLOPs/token")
    if usage.bytes is not None:
        parts.append(f"{usage.bytes:,} bytes")
    if usage.ms is not None:
        parts.append(f"{usage.ms:.3f} ms")
    return ", ".join(parts)
