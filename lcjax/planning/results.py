"""Results of planning: the cost of each site, and which sites to collapse."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self, get_args

from lcjax._document import Document, Table
from lcjax._messages import describe, printable
from lcjax.plots.picture import Picture
from lcjax.plots.steps import Step, plot_steps
from lcjax.structure.choice import Reason, Skip
from lcjax.tree.paths import natural_sort_key
from lcjax.validation.json_files import kind_of, parse_json

_FORMAT = 2


class SiteCost(NamedTuple):
    """One site collapsed, all others unchanged.

    Attributes:
      site: its path.
      metric: with the site collapsed.
      metric_drop: from the metric of the deep model.
      parameters: of the model with the site collapsed, slopes left out.
      held_out_r2: of the fit, on tokens held out; None for an exact fuse.
    """

    site: str
    metric: float
    metric_drop: float
    parameters: int
    held_out_r2: float | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Document):
    """The cost of each site; prints as a table, cheapest first.

    Attributes:
      baseline: metric of the deep model.
      costs: one a site, in forward order.
      fit: "exact", "per_unit" or "least_squares".
      skipped: the sites that cannot be collapsed alone.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> y = model.apply(variables, x)
      >>> metric = lambda v: -float(jnp.mean((model.apply(v, x) - y) ** 2))
      >>> found = lcjax.sensitivity(None, variables, metric, fit=lcjax.Exact(max_gap=1))
      >>> [cost.site for cost in found.cheapest_first], found.costs[0].parameters
      (['act_0'], 15)
    """

    baseline: float
    costs: tuple[SiteCost, ...]
    fit: str
    skipped: tuple[Skip, ...] = ()

    @property
    def cheapest_first(self) -> tuple[SiteCost, ...]:
        """The costs by their drop, the later site first where two are alike."""
        return tuple(sorted(reversed(self.costs), key=lambda cost: cost.metric_drop))

    def _parts(self) -> list[Table | str]:
        rows = [
            (
                cost.site,
                f"{cost.metric:.4f}",
                f"{cost.metric_drop:.4f}",
                f"{cost.parameters:,}",
                "–" if cost.held_out_r2 is None else f"{cost.held_out_r2:.4f}",
            )
            for cost in self.cheapest_first
        ]
        rows.insert(0, ("(deep)", f"{self.baseline:.4f}", "", "", ""))
        table = Table(("site alone", "metric", "drop", "parameters", "held-out R²"), rows)
        return [table, *(f"{each.site} stays: {each}" for each in self.skipped)]


@dataclass(frozen=True, kw_only=True)
class PlanStep:
    """One more site collapsed.

    Attributes:
      site: path of the site; None for the deep model.
      metric: measured with this site and those of earlier steps collapsed.
      parameters: of that model, slopes left out.
      flops: multiply-adds times two for one token through that model's chains.
    """

    site: str | None
    metric: float
    parameters: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class Plan(Document):
    """Which sites to collapse; prints as a table of the costs and savings of each step.

    `lcjax.collapse`, `calibrate` and `collapse_sequential` take it for their sites.

    Attributes:
      steps: the deep model, then one step for every site in the order in which they are collapsed.
        The last may be one too far, which shows that the budget ends before it.
      num_taken: how many steps after the first are carried out.
      budget: as the user wrote it.
      budget_met: whether the budget is met; if not, the steps taken come nearest.
      fit: by which the steps were measured: "exact", "per_unit" or "least_squares".
      order: in which sites were tried: "sensitivity", "last" or "gap".
      skipped: the sites that cannot be collapsed or would save nothing, each with the reason.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> y = model.apply(variables, x)
      >>> metric = lambda v: -float(jnp.mean((model.apply(v, x) - y) ** 2))
      >>> of = dict(fit=lcjax.Exact(max_gap=1), budget=lcjax.Count(1))
      >>> plan = lcjax.plan(None, variables, metric, **of)
      >>> plan.sites, plan.budget_met, lcjax.Plan.from_json(plan.to_json()) == plan
      (('act_0',), True, True)
      >>> compact, report = lcjax.collapse(variables, plan, fit=lcjax.Exact(max_gap=1))
    """

    steps: tuple[PlanStep, ...]
    num_taken: int
    budget: str
    budget_met: bool
    fit: str
    order: str
    skipped: tuple[Skip, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites to collapse, in forward order."""
        paths = [step.site for step in self.steps[1 : self.num_taken + 1] if step.site is not None]
        return tuple(sorted(paths, key=natural_sort_key))

    @property
    def pareto_front(self) -> tuple[PlanStep, ...]:
        """The steps for which no other has both fewer parameters and a better metric."""
        return tuple(
            step
            for step in self.steps
            if not any(
                other.parameters <= step.parameters
                and other.metric >= step.metric
                and (other.parameters, other.metric) != (step.parameters, step.metric)
                for other in self.steps
            )
        )

    def _parts(self) -> list[Table | str]:
        """Returns the table, the skipped sites, and whether the budget is met."""
        rows = []
        for number, step in enumerate(self.steps):
            drop = f"{self.steps[0].metric - step.metric:.4f}" if number else ""
            taken = "" if not number else "yes" if number <= self.num_taken else "no"
            sizes = (f"{step.parameters:,}", f"{step.flops:,}")
            name = "(deep)" if step.site is None else step.site
            rows.append((name, f"{step.metric:.4f}", drop, *sizes, taken))
        headers = ("site", "metric", "drop", "parameters", "FLOPs/token of chains", "taken")
        lines: list[Table | str] = [Table(headers, rows)]
        lines += [f"skipped {skip.site}: {skip}" for skip in self.skipped]
        state = "met" if self.budget_met else "not met; this comes nearest"
        lines.append(f"budget {self.budget}: {state} (order {self.order}, fit {self.fit})")
        return lines

    def to_json(self) -> str:
        """Returns the plan as JSON, for `from_json`."""
        return json.dumps({"lcjax_plan": _FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the plan that `to_json` wrote.

        Raises:
          ValueError: when the text is not a plan; says what is wrong with it.
        """
        try:
            fields = parse_json(text, "the text")
            _check(fields, "the plan", {"lcjax_plan": int})
            if (written := fields.pop("lcjax_plan")) != _FORMAT:
                raise ValueError(f"its format is {written}, and this lcjax reads {_FORMAT}")
            _check(fields, "the plan", _PLAN_FIELDS)
            for number, step in enumerate(fields["steps"]):
                _check(step, f"step {number}", _STEP_FIELDS)
            for skip in fields["skipped"]:
                if not isinstance(skip, list) or [type(one) for one in skip] != [str, str, str]:
                    raise ValueError("skipped is not a list of triples of strings")
                if skip[1] not in get_args(Reason):
                    raise ValueError(f"the reason of a skip is {describe(skip[1])}")
            steps = tuple(PlanStep(**step) for step in fields["steps"])
            if not steps or not 0 <= fields["num_taken"] < len(steps):
                raise ValueError(f"num_taken is {fields['num_taken']}, of {len(steps)} steps")
            if steps[0].site is not None or None in (step.site for step in steps[1:]):
                raise ValueError("every step but the first, the deep model, names a site")
            skipped = tuple(Skip(*skip) for skip in fields["skipped"])
            return cls(**fields | {"steps": steps, "skipped": skipped})
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"not a plan that Plan.to_json wrote: {printable(error, longest=200)}. Make it "
                "again by lcjax.plan."
            ) from error

    def plot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """Returns a picture of the metric and the parameters after each step.

        Args:
          path: writes it to this file as well, as SVG, PNG or PDF by the suffix.

        Raises:
          ImportError: without matplotlib, which lcjax's extra `plots` brings.
          ValueError: another suffix.

        Example:
          >>> deep = PlanStep(site=None, metric=0.9, parameters=1000, flops=2000)
          >>> step = PlanStep(site="act_0", metric=0.8, parameters=400, flops=800)
          >>> of = dict(budget="Count(1)", budget_met=True, fit="exact", order="gap")
          >>> Plan(steps=(deep, step), num_taken=1, **of).plot()
          <Picture of 2 panels: save(path) writes it, a notebook shows it>
        """
        steps = [
            Step(each.site or "deep", each.metric, each.parameters, number <= self.num_taken)
            for number, each in enumerate(self.steps)
        ]
        picture = plot_steps(steps, f"budget {self.budget}: {'' if self.budget_met else 'not '}met")
        return picture if path is None else picture.saved(path)


# The types of the fields in JSON, where a metric may be an integer.
_STEP_FIELDS: dict[str, Any] = {
    "site": str | None,
    "metric": int | float,
    "parameters": int,
    "flops": int,
}
_PLAN_FIELDS: dict[str, Any] = {
    "steps": list,
    "num_taken": int,
    "budget": str,
    "budget_met": bool,
    "fit": str,
    "order": str,
    "skipped": list,
}


def _check(fields: Any, what: str, types: dict[str, Any]) -> None:
    """Raises unless a JSON object has fields of these types."""
    if not isinstance(fields, dict):
        raise ValueError(f"{what} is a JSON {kind_of(fields)}, expected an object")
    if lacking := types.keys() - fields.keys():
        raise ValueError(f"{what} lacks {', '.join(sorted(lacking))}")
    for name, kind in types.items():
        value = fields[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name} of {what} is a JSON {kind_of(value)}")
