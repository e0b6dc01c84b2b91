"""Carrying a choice of fits out, one site after another, and measuring what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from lcjax.calibration.calibrate import segments_to_fit
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Fit
from lcjax.planning.budgets import Usage
from lcjax.planning.measuring.latency import times_of
from lcjax.planning.measuring.measure import Measure
from lcjax.planning.measuring.options import Found, bytes_of, collect_for_fits, statistics_of
from lcjax.planning.table import FitTable
from lcjax.structure.front_end import Collapsible
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.checks import solve_checked
from lcjax.surgery.refit import refitted
from lcjax.surgery.sequential import forward_paths, steps_in_order


class Setting(NamedTuple):
    """What every part of a plan works with.

    Attributes:
      model: the deep model.
      run: `run(tree, *inputs)` returns the output of the model with any of its trees.
      data: to fit on.
      measure: of trees.
      baseline: metric of the deep model.
      inputs: of the batch that is timed; None where no time is.
      known: statistics of the deep model by site, of as many sites as fit in memory together.
    """

    model: Collapsible
    run: Callable[..., Any]
    data: CalibrationData
    measure: Measure
    baseline: float
    inputs: tuple[Any, ...] | None
    known: Mapping[str, Found] = {}


class Step(NamedTuple):
    """One step of a sequential collapse, as it was carried out.

    Attributes:
      fit: that was carried out.
      before: the model with the fits of all sites before.
      segment: that was replaced.
      found: its statistics, with inputs from `before` and outputs from the deep model.
      replacement: what took its place.
      after: the model with it.
      flops: how many more the model has with it.
    """

    fit: Fit
    before: Collapsible
    segment: Segment
    found: Found
    replacement: Replacement
    after: Collapsible
    flops: int


def carry_out(
    setting: Setting, table: FitTable, choice: Sequence[int], earlier: Sequence[Step]
) -> tuple[list[Step], Usage]:
    """Returns the steps of carrying a choice out, and what the model then costs.

    Args:
      setting: of the plan.
      table: of the choice.
      choice: the option of each site.
      earlier: steps of another choice, of which those that begin this one too are not repeated.
    """
    model, data, fits = setting.model, setting.data, table.fits(choice)
    options = {
        site.site: [each.fit for each in site.options if each.fit is not None]
        for site in table.sites
    }
    planned = steps_in_order(model, fits, forward_paths(model, data)) if fits else []
    steps = _in_common(planned, earlier)
    now = steps[-1].after if steps else model
    for sites, fit in planned[len(steps) :]:
        (segment,) = segments_to_fit(now, sites, fit)
        found: Found
        if now is model and sites[0] in setting.known and len(sites) == 1:
            found = setting.known[sites[0]]
        elif len(sites) == 1:
            found = collect_for_fits(model, data, {sites[0]: options[sites[0]]}, now)[sites[0]]
        else:
            moments = collect_for_fit(model, [segment], data, fit, now.variables)
            found = {fit.observed: moments}
        replacement = solve_checked(fit, segment, statistics_of(fit, segment, found))
        replacement = refitted(model, now, segment, replacement, fit, data)
        rebuilt = now.rebuild({segment: replacement})
        after = now.with_variables(rebuilt.tree)
        more = rebuilt.after.flops - rebuilt.before.flops
        steps.append(Step(fit, now, segment, found, replacement, after, more))
        now = after
    tree = now.variables
    (metric,) = setting.measure([tree])
    ms = None
    if setting.inputs is not None:
        ms = times_of(setting.run, {"": tree}, setting.inputs)[""]
    usage = Usage(
        drop=setting.baseline - metric,
        parameters=now.size.parameters,
        flops=model.size.flops + sum(step.flops for step in steps),
        kept=table.deep.kept - len(fits),
        bytes=bytes_of(tree),
        ms=ms,
    )
    return steps, usage


def _in_common(
    planned: Sequence[tuple[tuple[str, ...], Fit]], earlier: Sequence[Step]
) -> list[Step]:
    """Returns the earlier steps that begin what is planned."""
    pairs = zip(planned, earlier, strict=False)
    same = takewhile(lambda pair: pair[0] == (pair[1].segment.sites, pair[1].fit), pairs)
    return [step for _, step in same]
