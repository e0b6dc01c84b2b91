"""Times of models on this device, and of the fits of sites."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from lcjax.calibration.fits import Fit
from lcjax.planning.choosing.options import SiteOptions
from lcjax.planning.measuring.options import Solved
from lcjax.planning.table import FitTable
from lcjax.structure.front_end import Collapsible

_READINGS = 8
_SECONDS = 0.02  # shortest time of one reading
_STEPS = 2000  # times are multiples of the deep model's divided by it


def timed_table(
    table: FitTable,
    model: Collapsible,
    run: Callable[..., Any],
    inputs: tuple[Any, ...],
    solved: Mapping[str, Sequence[Solved]],
) -> FitTable:
    """Returns the table with the time of every option.

    Sites around which layers have the same widths take the same time. So one model is timed for
    each fit of each width, with the fit at all such sites (of neighbours that share a layer, at one
    of the two); a site's part is the difference to the deep model, divided by their number.

    Args:
      table: without times.
      model: the deep model.
      run: `run(variables, *inputs)` returns the model's output.
      inputs: of the batch that is timed.
      solved: the fits of each site.
    """
    groups: dict[Any, list[str]] = {}
    for site in table.sites:
        if solved[site.site]:
            segment = solved[site.site][0].segment
            groups.setdefault((segment.widths, len(segment.gates)), []).append(site.site)
    trees: dict[Any, Any] = {None: model.variables}
    counts: dict[Any, int] = {}
    for key, paths in groups.items():
        for fit in {each.fit: None for path in paths for each in solved[path]}:
            chosen = _apart([each for path in paths for each in solved[path] if each.fit == fit])
            parts = {each.segment: each.replacement for each in chosen if each.replacement}
            trees[key, fit] = model.rebuild(parts).tree
            counts[key, fit] = len(chosen)
    times = times_of(run, trees, inputs)
    step = times[None] / _STEPS
    key_of = {path: key for key, paths in groups.items() for path in paths}

    def change(path: str, fit: Fit | None) -> float:
        if fit is None:
            return 0.0
        which = (key_of[path], fit)
        return math.ceil((times[which] - times[None]) / counts[which] / step) * step

    def with_times(site: SiteOptions) -> SiteOptions:
        options = tuple(
            each._replace(change=each.change._replace(ms=change(site.site, each.fit)))
            for each in site.options
        )
        return replace(site, options=options)

    deep = table.deep._replace(ms=times[None])
    return replace(table, deep=deep, sites=tuple(map(with_times, table.sites)))


def times_of(
    run: Callable[..., Any], trees: Mapping[Any, Any], inputs: tuple[Any, ...]
) -> dict[Any, float]:
    """Returns the time of one batch for each tree, in milliseconds; the least of eight readings.

    A reading repeats the call until it takes 20 ms. Readings of all trees alternate, so that a slow
    moment of the device is no tree's alone.

    Args:
      run: `run(variables, *inputs)` returns the model's output; compiled for each tree.
      trees: by any name.
      inputs: of one batch; moved to the device before.
    """
    inputs = jax.tree.map(jax.numpy.asarray, inputs)
    program = jax.jit(run)
    repeats: dict[Any, int] = {}
    for name, tree in trees.items():
        jax.block_until_ready(program(tree, *inputs))  # compiles
        once = _seconds(program, tree, inputs, 1)
        repeats[name] = max(1, round(_SECONDS / max(once, 1e-6)))
    best = dict.fromkeys(trees, math.inf)
    for _ in range(_READINGS):
        for name, tree in trees.items():
            spent = _seconds(program, tree, inputs, repeats[name]) / repeats[name]
            best[name] = min(best[name], 1e3 * spent)
    return best


def _apart(solved: Sequence[Solved]) -> list[Solved]:
    """Returns those of the fits whose segments share no layer with an earlier one's."""
    chosen, taken = [], set()
    for each in solved:
        if taken.isdisjoint(each.segment.names):
            chosen.append(each)
            taken.update(each.segment.names)
    return chosen


def _seconds(
    program: Callable[..., Any], tree: Any, inputs: tuple[Any, ...], repeats: int
) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        output = program(tree, *inputs)
    jax.block_until_ready(output)
    return time.perf_counter() - start
