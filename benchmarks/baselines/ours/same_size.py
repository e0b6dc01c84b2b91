"""The forms of lcjax at the size that a baseline has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.allocation import uniform_counts
from benchmarks.baselines.pairs import find_pairs
from benchmarks.harness.finished_runs import fit_heal_settings
from lcjax.calibration.data import Weighting
from train.protocols.fitting import calibration_data, collapse_by_fit
from train.tasks.base import Task
from train.validation import ConfigError

_CHOICES = 8


def collapse_sites(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task with the sites of the target collapsed by the fit of the run."""
    settings = fit_heal_settings(task.config)
    compact, report = collapse_by_fit(task, settings, task.variables, target.sites)
    return base.Compressed(compact, lambda tx: tx, 0, str(report))


def keep_units(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model with the same share of units at every site, chosen and refitted."""
    params = task.variables["params"]
    counts = uniform_counts(params, find_pairs(params), target.parameters)
    fits = {site: lcjax.Units(count) for site, count in counts.items()}
    return fitted(task, fits, calibration_data(task))


def keep_to_plan(
    task: Task, target: base.Target, weighting: Weighting = "equal"
) -> base.Compressed:
    """Returns the model with the fit that a plan within the parameters gives each site.

    Neighbouring sites of a chain share a layer, so that their savings overlap: where the model is
    larger than planned, the plan is chosen again for less, from the same measurements.

    Args:
      task: with the deep model.
      target: size of the compressed model.
      weighting: how much tokens count in the fits.

    Raises:
      ConfigError: when the model is still too large after several choices.
    """
    budget = target.parameters
    data = dataclasses.replace(calibration_data(task), weighting=weighting)
    plan = lcjax.plan_fits(
        task.classifier.logits, task.variables, data, budget=lcjax.Params(budget)
    )
    for _ in range(_CHOICES):
        done = fitted(task, plan.fits, data)
        excess = lcjax.count_parameters(done.variables) - target.parameters
        if excess <= 0:
            return base.Compressed(done.variables, done.constrain, 0, f"{plan}\n\n{done.report}")
        budget -= excess
        plan = plan.at(lcjax.Params(budget))
    raise ConfigError(f"no plan has at most {target.parameters:,} parameters after all fits.")


def fitted(task: Task, fits: Mapping[str, Any], data: lcjax.CalibrationData) -> base.Compressed:
    """Returns the model of a task with the fit of each site carried out."""
    apply = task.classifier.logits
    compact, report = lcjax.collapse_sequential(apply, task.variables, data, fit=fits)
    return base.Compressed(compact, lambda tx: tx, 0, str(report))
