"""A fit for each site: the same number or fraction of units, a plan from a file, or a mix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import lcjax
from lcjax.algebra.abstract import shapes_of
from lcjax.calibration.counts import multiple_for
from lcjax.calibration.fits import Fit, Units
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.plan_file import PlanFile
from lcjax.planning.plan_fits import plan_fits
from lcjax.structure.params_tree import ParamsTree
from train.config.protocol import FitHealConfig
from train.protocols.fitting import calibration_data, candidates
from train.runtime.devices import is_main_process
from train.tasks.base import Task
from train.validation import ConfigError

Fits = Mapping[str, Fit]


def uniform_units(task: Task, settings: FitHealConfig, variables: Any) -> dict[str, Fit]:
    """Returns the fit that keeps --keep-units units, for every site that --last and --where select.

    A fraction is rounded to a multiple that fills the tiles of this device.

    Raises:
      ConfigError: if a site has fewer units.
    """
    keep, chosen = settings.keep_units, set(candidates(task, variables))
    fits: dict[str, Fit] = {}
    for site in lcjax.find_sites(variables):
        if keep is None or site.path not in chosen:
            continue
        count = int(keep) if keep >= 1 else _rounded(keep * site.d_hidden, site.d_hidden)
        if count > site.d_hidden:
            raise ConfigError(
                f"--keep-units is {keep}, but {site.path} has {site.d_hidden} units; expected at "
                "most as many, or a fraction."
            )
        fits[site.path] = Units(count, linear=settings.linear)
    return fits


def _rounded(count: float, width: int) -> int:
    """Returns the nearest multiple for this device, at least one; at most the width."""
    multiple = multiple_for(jax.default_backend())
    return min(max(round(count / multiple), 1) * multiple, width)


def read_plan(path: Path, task: Task) -> PlanFile:
    """Returns the plan of a file, after a check that it is of the task's model.

    Raises:
      ConfigError: if it cannot be read, is of another model, or is of weights that the run is yet
        to train.
    """
    variables, finished = task.variables, task.config.init.deep is not None
    try:
        plan = PlanFile.load(path)
        plan.check(ParamsTree(variables if finished else shapes_of(variables)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plan: {error}") from error
    if not finished and any(site.weights is not None for site in plan.sites.values()):
        raise ConfigError(
            f"--plan is {path}, a plan of a finished model's weights; expected its run as --from."
        )
    if not plan.fits:
        raise ConfigError(f"--plan is {path}, which keeps every site; expected a fit in it.")
    return plan


def plan_mix(task: Task, settings: FitHealConfig, deep: Any) -> FitPlan:
    """Returns the plan of --fit mix: the fits of all sites that cost least within --target-params.

    Costs are divergences from the deep model's outputs, on calibration examples held out.

    Raises:
      ConfigError: if no choice is so small.
    """
    budget, sites = settings.size_budget(), candidates(task, deep)
    if budget is None:
        raise ConfigError("--fit mix needs --target-params.")
    if is_main_process():
        print(f"planning: {len(sites)} sites, each measured with every fit", flush=True)
    apply, data = task.classifier.logits, calibration_data(task)
    try:
        return plan_fits(apply, deep, data, budget=budget, sites=sites)
    except ValueError as error:
        raise ConfigError(f"--fit mix: {error}") from error


def collapse_by_site(task: Task, variables: Any, fits: Fits) -> tuple[Any, lcjax.CollapseReport]:
    """Returns the tree with every site replaced by its own fit, and the report."""
    data = calibration_data(task)
    return lcjax.collapse_sequential(task.classifier.logits, variables, data, fit=fits)
