"""Plans and collapses of a task's model by the fit of its protocol."""

import math
from collections.abc import Sequence
from typing import Any

import lcjax
from lcjax.planning.budgets import Budget
from lcjax.tree.selection import choose
from train.config.calibrated import CalibratedConfig, PlannedConfig
from train.protocols.calibration_size import warn_if_too_few_tokens
from train.runtime.devices import is_main_process
from train.tasks.base import Task

Solver = lcjax.Exact | lcjax.PerUnit | lcjax.LeastSquares


def solver(settings: CalibratedConfig) -> Solver:
    """Returns the solver of --fit; --fit exact collapses sites of any gap."""
    if settings.fit == "exact":
        return lcjax.Exact(max_gap=math.inf)
    kind = {"per_unit": lcjax.PerUnit, "least_squares": lcjax.LeastSquares}[settings.fit]
    return kind(sequential=settings.sequential)


def calibration_data(task: Task) -> lcjax.CalibrationData:
    """Returns the batches that sites are fitted to."""
    settings = task.config.protocol
    assert isinstance(settings, CalibratedConfig)
    return lcjax.CalibrationData(
        task.calibration, mask=task.classifier.mask, weighting=settings.calibration_weighting
    )


def collapse_by_fit(
    task: Task, settings: CalibratedConfig, variables: Any, sites: Sequence[str]
) -> tuple[Any, lcjax.CollapseReport]:
    """Returns the tree with these sites collapsed by the fit of a protocol, and the report.

    If all of them are linear already, they are fused exactly: no fit is better.
    """
    fit, found = solver(settings), lcjax.find_sites(variables)
    if all(site.gap == 0 for site in found if site.path in sites):
        fit = lcjax.Exact(max_gap=math.inf)
    if isinstance(fit, lcjax.Exact):
        return lcjax.collapse(variables, sites, fit)
    apply, data = task.classifier.logits, calibration_data(task)
    if fit.sequential:
        return lcjax.collapse_sequential(apply, variables, data, sites, fit)
    stats = lcjax.calibrate(apply, variables, data, sites, fit)
    return lcjax.collapse(variables, calibration=stats)


def candidates(task: Task, variables: Any) -> list[str]:
    """Returns the paths of the paired sites that --last and --where select, in forward order."""
    penalty = task.config.penalty
    paired = [site.path for site in lcjax.find_sites(variables) if site.paired]
    return choose(paired, last=penalty.last, where=penalty.where)


def make_plan(task: Task, settings: PlannedConfig, deep: Any, budget: Budget) -> lcjax.Plan:
    """Returns the plan for a deep model within a budget.

    Args:
      task: with calibration data and metric.
      settings: of the protocol.
      deep: variables of the deep model.
      budget: the limit that the plan keeps to.
    """
    sites = candidates(task, deep)
    if is_main_process():
        print(
            f"planning: {len(sites)} sites, each collapsed on trial and measured on "
            f"{len(task.data.validation):,} examples",
            flush=True,
        )
    warn_if_too_few_tokens(task, settings, deep, sites)
    return lcjax.plan(
        task.classifier.logits,
        deep,
        task.score,
        calibration_data(task),
        budget=budget,
        sites=sites,
        order=settings.order,
        fit=solver(settings),
    )
