"""A fit for each layer within a budget: the cheapest choice among measured and interpolated."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lcjax.calibration.fits import Fit
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.folder.fitting.plan import Fits, mlp_parameters
from lcjax.folder.fitting.solve import bytes_of_fit
from lcjax.planning.budgets import Budget, Usage
from lcjax.planning.choosing.between import with_options_between
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.plan_file import fit_from_json
from lcjax.planning.table import FitTable

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
    deep = mlp_parameters(family, Form("deep", family.hidden), bias=False)
    widths = (family.width, family.hidden, family.width)
    sites = []
    for layer, measured in enumerate(costs):
        options = [KEEP]
        for fit, cost in measured.items():
            own = mlp_parameters(family, form_of(fit, family.hidden), bias=True)
            options.append(Option(fit, Usage(cost, own - deep, 2 * (own - deep), -1, 0, 0.0)))
        site = SiteOptions(family.site(layer), widths, tuple(options))
        sites.append(_within(family, buffer, with_options_between(site, multiple_of, more)))
    whole = family.leaves.folder.parameters
    table = FitTable(Usage(0.0, whole, 0, family.depth), tuple(sites))
    choice = table.choose([budget])
    fits = table.fits(choice)
    return [fits.get(site.site) for site in sites], table.usage(choice).drop


def _within(family: Family, buffer: int, site: SiteOptions) -> SiteOptions:
    """Returns a site with the options whose solving takes at most so many bytes."""
    fits = (option.fit for option in site.options)
    small = [fit is None or bytes_of_fit(family, fit) <= buffer for fit in fits]
    return replace(site, options=tuple(itertools.compress(site.options, small)))


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
