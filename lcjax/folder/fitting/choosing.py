"""A fit for each layer within a budget: the cheapest choice among measured and interpolated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcjax.calibration.fits import Fit, Units
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.folder.fitting.plan import Fits, mlp_parameters
from lcjax.folder.fitting.solve import bytes_of_fit
from lcjax.planning.budgets import Budget, Usage
from lcjax.planning.candidates import Candidates, fits_for_width
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.plan_file import fit_from_json
from lcjax.planning.table import FitTable

_FINE = tuple(part / 16 for part in range(1, 16))  # of the hidden units

Costs = Mapping[Fit, float]


def choose(
    family: Family,
    costs: Sequence[Costs],
    budget: Budget,
    *,
    multiple_of: int,
    buffer: int,
    more: Sequence[Fit] = (),
) -> tuple[Fits, float]:
    """Returns a fit for every layer within a budget, and the sum of their costs.

    Args:
      family: of the model.
      costs: of the fits that were measured, for each layer; in one unit, of the model's output.
      budget: of parameters.
      multiple_of: of which numbers of units are multiples.
      buffer: bytes that solving a fit may take.
      more: `Units` that are offered too.

    Raises:
      ValueError: no choice meets it; says the nearest that is possible.
    """
    fine = fits_for_width(Candidates(fractions=_FINE, multiple_of=multiple_of), family.hidden)
    extra = [fit for fit in (*fine, *more) if bytes_of_fit(family, fit) <= buffer]
    deep = mlp_parameters(family, Form("deep", family.hidden), bias=False)
    widths = (family.width, family.hidden, family.width)
    sites = []
    for layer, measured in enumerate(costs):
        options = [KEEP]
        for fit, cost in between(measured, extra, family.hidden).items():
            own = mlp_parameters(family, form_of(fit, family.hidden), bias=True)
            options.append(Option(fit, Usage(cost, own - deep, 2 * (own - deep), -1, 0, 0.0)))
        sites.append(SiteOptions(family.site(layer), widths, tuple(options)))
    whole = family.leaves.folder.parameters
    table = FitTable(Usage(0.0, whole, 0, family.depth), tuple(sites))
    choice = table.choose([budget])
    fits = table.fits(choice)
    return [fits.get(site.site) for site in sites], table.usage(choice).drop


def between(measured: Costs, more: Sequence[Fit], hidden: int) -> dict[Fit, float]:
    """Returns the costs of fits that were measured, and of others with numbers of units between.

    The root of the cost is interpolated, which is nearly linear in the number of units, and 0 where
    all stay.

    Args:
      measured: of some fits.
      more: fits whose cost is wanted; those beyond what was measured are left out.
      hidden: number of units of the layer.

    Example:
      >>> import lcjax
      >>> costs = between({lcjax.Units(16): 0.04}, [lcjax.Units(8), lcjax.Units(24)], 32)
      >>> {fit.count: round(cost, 4) for fit, cost in costs.items()}
      {16: 0.04, 24: 0.01}
    """
    found = dict(measured)
    for linear in (False, True):
        known = {
            fit.count: cost
            for fit, cost in measured.items()
            if isinstance(fit, Units) and fit.linear == linear
        }
        if not known:
            continue
        if not linear:
            known[hidden] = 0.0
        counts = sorted(known)
        roots = [np.sqrt(known[count]) for count in counts]
        for fit in more:
            if isinstance(fit, Units) and fit.linear == linear and fit not in found:
                if counts[0] <= fit.count <= counts[-1]:
                    found[fit] = float(np.interp(fit.count, counts, roots)) ** 2
    return found


def costs_of(tried: Sequence[Mapping[str, Any]], losses: Mapping[str, float]) -> dict[Fit, float]:
    """Returns what each fit of a layer costs, in the unit of losses.

    One fit of each form was followed to the model's end. The loss of another of that form is in
    proportion to its error in the layer.

    Args:
      tried: what `Measuring.run` returned.
      losses: of the models that were followed, by name.
    """
    errors = {each["name"]: each["error"] for each in tried if each["followed"]}
    costs = {}
    for each in tried:
        followed = errors[each["name"]]
        gain = losses[each["name"]] / followed if followed else 0.0
        costs[fit_from_json(each["fit"])] = gain * each["error"]
    return costs
