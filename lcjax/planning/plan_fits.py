"""Planning a fit for each site: measured once, chosen for all, carried out and measured again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lcjax._messages import first_few
from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import Fit
from lcjax.calibration.statistics import with_progress
from lcjax.errors import CollapseError
from lcjax.planning.budgets import Budget, Latency, Usage, as_budgets
from lcjax.planning.candidates import (
    ALL_CANDIDATES,
    Candidates,
    check_candidates,
    fits_to_try,
    low_ranks,
)
from lcjax.planning.choosing.between import kind_of, number_of, with_options_between
from lcjax.planning.choosing.options import SiteOptions
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.measuring.carry_out import Setting
from lcjax.planning.measuring.latency import timed_table
from lcjax.planning.measuring.measure import MetricMeasure, OutputMeasure
from lcjax.planning.measuring.options import (
    Found,
    bytes_of,
    collect_for_fits,
    measure_alone,
    solve_fits,
)
from lcjax.planning.measuring.outputs import KL_DIVERGENCE, OutputMetric
from lcjax.planning.measuring.rounds import carry_out_rounds
from lcjax.planning.measuring.uniform import uniform_ranks, uniform_units
from lcjax.planning.table import FitTable
from lcjax.planning.trials import MetricFn
from lcjax.structure.choice import SiteSelector, select_for_fit
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.surgery.sequential import forward_paths
from lcjax.validation.arguments import check_number
from lcjax.validation.batches import as_batch, check_batches
from lcjax.validation.functions import check_function, check_metric

_MOMENTS = 2**32  # bytes of the moments that are collected in one pass


def plan_fits(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    data: CalibrationData | Iterable[Any],
    *,
    budget: Budget | Sequence[Budget],
    candidates: Candidates | Sequence[Fit] = ALL_CANDIDATES,
    metric: OutputMetric | MetricFn = KL_DIVERGENCE,
    sites: SiteSelector = None,
    tolerance: float = 0.2,
) -> FitPlan:
    """Returns fits of the sites that together meet budgets and cost least; changes nothing.

    One pass over the batches collects the moments from which the candidates of all sites are
    solved; more than one where they would take over 4 GiB. Each candidate is measured once, alone,
    that of `LowRank` before its last kernel is fitted to the first factors; what lies between two
    counts or ranks of `Candidates` is interpolated. The drops of sites are taken to add up, and an
    exact knapsack chooses for all sites: the least drop within the budgets, or, where `MaxDrop` is
    the only one, the fewest parameters. The choice is carried out as `lcjax.collapse_sequential`
    does, one pass a site, and measured. Where the drop differs from the predicted one by more than
    the tolerance, or a budget is not met, the candidates around the choice are measured again with
    the other sites' fits in place, and the choice is made again; at most three times, and up to 16
    more while a size is over its limit. Where that does not settle it, the largest share of units
    and the largest rank that the budgets allow, the same at every site, are carried out too. The
    best of all that were carried out is returned.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`.
      variables: params or variables, as apply_fn takes them; nested dicts.
      data: batches, or `CalibrationData`; in memory or re-iterable.
      budget: one or several of `Params(...)`, `Flops(...)`, `Memory(...)`, `Latency(...)`,
        `Count(...)` and `MaxDrop(...)`.
      candidates: `Candidates(...)`, which follow the width of each site, or a list of fits.
      metric: by what fits are compared: `KLDivergence()` or `RelativeError()` of the outputs from
        the deep model's, on the rows of data that are held out; or `metric(variables)`, which
        returns a number, higher is better. Fits alone are measured by trees of one form, with
        zeros for what a fit leaves out, so that a jitted metric compiles once.
      sites: from which to choose; paths, globs, `re.Pattern`s or Sites; None takes every
        paired site.
      tolerance: largest accepted difference of the measured drop from the predicted one, relative
        to the larger of the two.

    Returns:
      the plan, which prints as a table; `plan.at(budget)` chooses again without measuring.

    Raises:
      ValueError: budgets that contradict each other or that no choice is predicted to meet, with
        the nearest that is possible (where only the measured model misses a budget, the plan says
        so in `unmet`); a metric that is not finite; more units than a site has; candidates that
        leave nothing to try; as `lcjax.calibrate`.
      TypeError: batches that can be iterated only once; something other than budgets or fits.
      CollapseError: as `lcjax.collapse_sequential`.

    Example:
      >>> import flax.linen as nn, jax, lcjax
      >>> model = lcjax.CollapsibleMLP((32, 3), nn.relu)
      >>> x = jax.random.normal(jax.random.key(0), (256, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> plan = lcjax.plan_fits(
      ...     model.apply, variables, [x], budget=lcjax.Params(0.6), tolerance=1,
      ...     candidates=[lcjax.LeastSquares(), lcjax.Units(16), lcjax.Units(8)])
      >>> plan.fits["act_0"].count
      16

    References:
      Bercovich et al. 2024, "Puzzle", arXiv 2411.19146, chooses blocks by scores that add up.
    """
    check_function(apply_fn)
    return plan_fits_of_model(
        ParamsTree(variables, apply_fn, "plan_fits"),
        apply_fn,
        data,
        budget=budget,
        candidates=candidates,
        metric=metric,
        sites=sites,
        tolerance=tolerance,
    )


def plan_fits_of_model(
    model: Collapsible,
    run: Callable[..., Any],
    data: CalibrationData | Iterable[Any],
    *,
    budget: Budget | Sequence[Budget],
    candidates: Candidates | Sequence[Fit] = ALL_CANDIDATES,
    metric: OutputMetric | MetricFn = KL_DIVERGENCE,
    sites: SiteSelector = None,
    tolerance: float = 0.2,
) -> FitPlan:
    """Returns what `plan_fits` does, for a model of any front end.

    Args:
      model: the deep model.
      run: `run(tree, *inputs)` returns the output of the model with any of its trees.
      data: as for `plan_fits`, as all that follow.
      budget: one or several.
      candidates: which fits are tried.
      metric: by what they are compared.
      sites: from which to choose.
      tolerance: of the measured drop.
    """
    budgets, data = as_budgets(budget), as_data(data)
    check_candidates(candidates)
    check_batches(data.batches, more_than_once="each site")
    check_number("tolerance", tolerance)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected a number of at least 0.")
    if isinstance(metric, OutputMetric):
        measure, name = OutputMeasure(run, model.variables, metric, data), metric.name
    else:
        check_metric(metric)
        measure, name = MetricMeasure(metric), getattr(metric, "__name__", "metric")
    fits, notes = _fits_by_site(model, data, candidates, sites)
    uniform = _uniform(model, list(fits), budgets, candidates)
    fits = {path: _with(tried, [same[path] for same in uniform]) for path, tried in fits.items()}
    timed = next((each for each in budgets if isinstance(each, Latency)), None)
    inputs = None
    if timed is not None:
        inputs = data.first_batch() if timed.batch is None else as_batch(timed.batch)
    (baseline,) = measure([model.variables])
    setting = Setting(model, run, data, measure, baseline, inputs)
    table, left_out, known = _measured_table(setting, fits)
    setting = setting._replace(known=known)
    if isinstance(candidates, Candidates):  # not chosen by the user one by one
        left_out, multiple = [], candidates.multiple
        denser = tuple(with_options_between(site, multiple) for site in table.sites)
        table = replace(table, sites=denser)
    choice, rounds = carry_out_rounds(setting, table, budgets, tolerance, uniform)
    measured = next(each.measured for each in rounds if each.choice == choice)
    return FitPlan(
        table=table,
        choice=choice,
        budgets=tuple(map(str, budgets)),
        metric=name,
        baseline=baseline,
        tolerance=float(tolerance),
        unmet=tuple(str(each) for each in budgets if not each.met(measured, table.deep)),
        rounds=tuple(rounds),
        notes=(*notes, *left_out),
    )


def _fits_by_site(
    model: Collapsible,
    data: CalibrationData,
    candidates: Candidates | Sequence[Fit],
    sites: SiteSelector,
) -> tuple[dict[str, tuple[Fit, ...]], list[str]]:
    """Returns the fits to try by site, in forward order, and remarks about sites without."""
    chosen = select_for_fit(model.sites, sites, model.collapsed).chosen
    found = [site for site in model.sites if site.path in chosen]
    stacked = [site.path for site in found if site.layers > site.experts]
    notes = [f"{path}: stays: layers of a scan, which cannot be fitted" for path in stacked]
    order = [path for path in forward_paths(model, data) if path in chosen and path not in stacked]
    if not order:
        raise CollapseError(
            "sites: got none that can be fitted, expected one with a Dense on both sides, not "
            "stacked by a scan. Unstack layers with lcjax.unstack_layers."
        )
    fits = {path: fits_to_try(candidates, model.segments([path])[0]) for path in order}
    if not any(fits.values()):
        raise ValueError(
            f"candidates: got {candidates}, which leave nothing to try at {first_few(order)}. Give "
            "a smaller multiple_of, other fractions, or another kind of fit."
        )
    return fits, notes


def _uniform(
    model: Collapsible,
    paths: Sequence[str],
    budgets: Sequence[Budget],
    candidates: Candidates | Sequence[Fit],
) -> list[Mapping[str, Fit]]:
    """Returns choices of the same for every site that meet the budgets."""
    if not isinstance(candidates, Candidates):
        return []
    found: list[Mapping[str, Fit]] = []
    if candidates.units:
        found.append(uniform_units(model, paths, budgets, candidates.multiple))
    if all(low_ranks(candidates, model.segments([path])[0].pair) for path in paths):
        found.append(uniform_ranks(model, paths, budgets, candidates.multiple))
    return [same for same in found if same]


def _with(fits: tuple[Fit, ...], more: Sequence[Fit]) -> tuple[Fit, ...]:
    """Returns the fits with others in the place of those with nearly their units or rank."""
    for fit in more:
        number, alike = number_of(fit), [each for each in fits if kind_of(each) == kind_of(fit)]
        near = [each for each in alike if 8 * abs(number_of(each) - number) <= number]
        fits = (*(each for each in fits if each not in near), fit)
    return fits


def _measured_table(
    setting: Setting, fits: Mapping[str, Sequence[Fit]]
) -> tuple[FitTable, list[str], dict[str, Found]]:
    """Returns the table of all fits, each measured alone, and remarks about those left out.

    Also the statistics of the first sites, as many as fit in memory together.
    """
    model, data = setting.model, setting.data
    rows, notes, solved = [], [], {}
    known: dict[str, Found] = {}
    for paths in _groups(model, list(fits)):
        found = collect_for_fits(model, data, {path: fits[path] for path in paths})
        known = known or found
        for path in with_progress(paths, "measuring fits", "site") if data.progress else paths:
            each, more = solve_fits(model, path, fits[path], found[path])
            rows.append(measure_alone(model, setting.measure, setting.baseline, path, each))
            notes += more
            if setting.inputs is not None:
                solved[path] = each
    size = model.size
    deep = Usage(0.0, size.parameters, size.flops, len(rows), bytes_of(model.variables))
    table = FitTable(deep, tuple(_in_chains(model, rows)))
    if setting.inputs is not None:
        table = timed_table(table, model, setting.run, setting.inputs, solved)
    return table, notes, known


def _in_chains(model: Collapsible, rows: Sequence[SiteOptions]) -> list[SiteOptions]:
    """Returns sites that know which one before them they share a layer with."""
    last: dict[str, str] = {}
    found = []
    for row in rows:
        (segment,) = model.segments([row.site])
        if len(segment.layers) == 2 and not (segment.gates or segment.experts or segment.entry):
            row = replace(row, after=last.pop(segment.names[0], None))
            last[segment.names[-1]] = row.site
        found.append(row)
    return found


def _groups(model: Collapsible, paths: Sequence[str]) -> list[list[str]]:
    """Returns the sites in groups whose moments fit in memory together; most often one group."""
    groups: list[list[str]] = []
    free = 0
    for path in paths:
        widths = model.segments([path])[0].widths
        size = 2 * 4 * (widths[0] + widths[-2]) * (widths[0] + widths[-2] + widths[-1])
        if not groups or size > free:
            groups.append([])
            free = _MOMENTS
        groups[-1].append(path)
        free -= size
    return groups
