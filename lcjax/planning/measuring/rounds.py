"""Rounds of a plan: a choice is carried out and measured, and made again around what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lcjax.calibration.fits import Fit
from lcjax.planning.budgets import Budget, Usage
from lcjax.planning.choosing.options import SiteOptions
from lcjax.planning.measuring.carry_out import Setting, Step, carry_out
from lcjax.planning.measuring.options import (
    Solved,
    drops_of,
    solve_fits,
)
from lcjax.planning.table import FitTable, Round, agrees

_MOST_ROUNDS = 3  # after the first, in which sizes are within their limits
_MOST_SIZES = 16  # choices that are too large, as those of sites that share a layer may be
_SIZES = ("parameters", "flops", "bytes")
_USED = 0.9  # share of a time limit; below it, and that of the prediction, try a slower model
_NEAR = 2  # options on each side of the chosen one that are measured again


def carry_out_rounds(
    setting: Setting,
    table: FitTable,
    budgets: Sequence[Budget],
    tolerance: float,
    uniform: Sequence[Mapping[str, Fit]],
) -> tuple[tuple[int, ...], list[Round]]:
    """Returns the best choice that was carried out, and all of them.

    Args:
      setting: of the plan.
      table: of all fits, each measured alone.
      budgets: to meet.
      tolerance: largest difference of the measured drop from the predicted one, relative to the
        larger of the two, at which a choice that meets the budgets is taken.
      uniform: choices of a fit for each site, carried out too where no other is taken.

    Raises:
      ValueError: budgets that cannot be met.
    """
    rounds: list[Round] = []
    choice, excess, agreed = table.choose(budgets), {}, False
    too_large: list[Round] = []
    steps: list[Step] = []
    while True:
        steps, measured = carry_out(setting, table, choice, steps)
        predicted = table.usage(choice)
        rounds.append(Round(choice, predicted, measured))
        met = all(budget.met(measured, table.deep) for budget in budgets)
        spare = 0.0 if excess.get("ms", 0) > 0 else _spare_ms(rounds[-1], table, budgets)
        agreed = agreed or (met and agrees(predicted.drop, measured.drop, tolerance))
        if agreed and not spare:
            return _best(rounds, table, budgets), rounds
        too_large = [each for each in rounds if _overshoot(each.measured, table, budgets) > 0]
        if len(rounds) - len(too_large) > _MOST_ROUNDS or len(too_large) > _MOST_SIZES:
            break
        for budget in budgets:
            name = budget.quantity
            if name != "drop" and not budget.met(measured, table.deep):
                more = getattr(measured, name) - getattr(predicted, name)
                excess[name] = max(more, excess.get(name, 0))
        if met and spare:
            excess["ms"] = -spare
        table = _around(setting, table, choice, steps, measured)
        try:
            choice = table.choose(budgets, excess)
        except ValueError:  # met by the prediction alone; the nearest was measured
            break
        if any(choice == each.choice for each in rounds):
            break
    if agreed:
        return _best(rounds, table, budgets), rounds
    for fits in uniform:
        other = table.choice_of(fits)
        if other is not None and all(other != each.choice for each in rounds):
            steps, measured = carry_out(setting, table, other, steps)
            rounds.append(Round(other, table.usage(other), measured))
    over = [_overshoot(each.measured, table, budgets) > 0 for each in rounds]
    if all(each.quantity in _SIZES for each in budgets) and all(over):
        rounds.append(_smallest(setting, table, budgets, rounds, steps))
    return _best(rounds, table, budgets), rounds


def _spare_ms(last: Round, table: FitTable, budgets: Sequence[Budget]) -> float:
    """Returns the milliseconds by which a model beats its prediction; 0 if it uses the limit."""
    limits = [budget.most(table.deep) for budget in budgets if budget.quantity == "ms"]
    predicted, measured = last.predicted.ms, last.measured.ms
    if not limits or predicted is None or measured is None:
        return 0.0
    return predicted - measured if measured < _USED * min(*limits, predicted) else 0.0


def _smallest(
    setting: Setting,
    table: FitTable,
    budgets: Sequence[Budget],
    rounds: Sequence[Round],
    steps: Sequence[Step],
) -> Round:
    """Returns the round of the smallest choice, where sizes of all others are over their limits.

    Raises:
      ValueError: its sizes are over their limits, too; says the least that was measured.
    """
    over = [each for each in budgets if not each.met(rounds[-1].measured, table.deep)]
    choice = table.smallest((over or budgets)[0].quantity)
    _, measured = carry_out(setting, table, choice, steps)
    found = Round(choice, table.usage(choice), measured)
    if _overshoot(measured, table, budgets) > 0:
        raise ValueError(table.cannot_meet(budgets, [each.measured for each in (*rounds, found)]))
    return found


def _best(rounds: Sequence[Round], table: FitTable, budgets: Sequence[Budget]) -> tuple[int, ...]:
    """Returns the measured choice that meets most budgets, and of those costs least."""
    only_drop = {budget.quantity for budget in budgets} <= {"drop", "kept"}
    bounded = any(budget.quantity == "drop" for budget in budgets)

    def order(each: Round) -> tuple[float, float, float]:
        unmet = sum(not budget.met(each.measured, table.deep) for budget in budgets)
        by_size = bounded and only_drop and not unmet
        cost = each.measured.parameters if by_size else each.measured.drop
        return unmet, _overshoot(each.measured, table, budgets), cost

    return min(rounds, key=order).choice


def _overshoot(usage: Usage, table: FitTable, budgets: Sequence[Budget]) -> float:
    """Returns by how much sizes are over their limits, relative to the deep model's; summed."""
    over = 0.0
    for budget in budgets:
        if budget.quantity in _SIZES:
            most, deep = budget.most(table.deep), getattr(table.deep, budget.quantity)
            over += max(getattr(usage, budget.quantity) - most, 0) / deep
    return over


def _around(
    setting: Setting,
    table: FitTable,
    choice: Sequence[int],
    steps: Sequence[Step],
    measured: Usage,
) -> FitTable:
    """Returns the table with drops as they are around a choice that was carried out.

    The options next to the chosen one are measured with the fits of all other sites in place; the
    options farther off keep their distance to the nearest of these. Sites that share a layer with
    another keep the drops that they have alone. The offset makes the choice cost what was measured.

    Args:
      setting: of the plan.
      table: before.
      choice: that was carried out.
      steps: of carrying it out.
      measured: what it costs.
    """
    of_site = {step.segment.sites[0]: n for n, step in enumerate(steps)}
    rows = []
    for site, chosen in zip(table.sites, choice, strict=True):
        n = of_site.get(site.site)
        if n is not None and _is_apart(steps, n):
            site = _site_around(setting, site, chosen, steps, n, measured.drop)
        rows.append(site)
    moved = replace(table, sites=tuple(rows), offset=0.0)
    return replace(moved, offset=measured.drop - moved.usage(choice).drop)


def _site_around(
    setting: Setting,
    site: SiteOptions,
    chosen: int,
    steps: Sequence[Step],
    n: int,
    drop: float,
) -> SiteOptions:
    """Returns the options of one site with the drops that they have around a choice."""
    order = sorted(range(len(site.options)), key=lambda i: site.options[i].change.parameters)
    at = order.index(chosen)
    near = [i for i in order[max(at - _NEAR, 0) : at + _NEAR + 1] if i != chosen]
    step, later = steps[n], {each.segment: each.replacement for each in steps[n + 1 :]}
    places = {site.options[i].fit: i for i in near}
    fits = [fit for fit in places if fit is not None]
    solved, _ = solve_fits(step.before, site.site, fits, step.found)
    if None in places:
        solved.append(Solved(None, step.segment.pair, None, step.before.size, 0))
    drops = drops_of(step.before, setting.measure, setting.baseline, solved, later)
    own = site.options[chosen].change.drop
    moved = {chosen: 0.0}
    for each, now in zip(solved, drops, strict=True):
        i = places[each.fit]
        moved[i] = own + (now - drop) - site.options[i].change.drop
    options = []
    for place, i in enumerate(order):
        nearest = min(moved, key=lambda j: abs(order.index(j) - place))
        change = site.options[i].change
        options.append(
            (i, site.options[i]._replace(change=change._replace(drop=change.drop + moved[nearest])))
        )
    return replace(site, options=tuple(option for _, option in sorted(options)))


def _is_apart(steps: Sequence[Step], n: int) -> bool:
    """Returns whether the segment of a step has one site, and shares no layer with another's."""
    own, others = steps[n].segment, [each.segment for i, each in enumerate(steps) if i != n]
    shared = [other for other in others if not set(own.names).isdisjoint(other.names)]
    return len(own.sites) == 1 and not shared
