"""lcjax's plan in the measured time of the baseline of low rank, whatever its parameters.

The two are timed with the deep model, interleaved in one run. The plan is chosen again with
another limit, from the same measurements, until it is as fast as the baseline or a little faster.
"""

import dataclasses
from typing import Any

import lcjax
from benchmarks.baselines import base, whitened
from benchmarks.baselines.ours.same_size import fitted
from train.protocols.fitting import calibration_data
from train.tasks.base import Task
from train.validation import ConfigError

_CHOICES = 6
_NEAR = 0.95  # of the time of the baseline
_AIM = 0.98


def keep_to_time(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model with the fits of a plan in the time that low rank takes.

    Raises:
      ConfigError: when the baseline's own shapes cannot be run, or no plan is as fast.
    """
    baseline = whitened.compress(task, target)
    if baseline.small is None:
        raise ConfigError("the baseline of low rank cannot be run in its own shapes.")
    apply = task.classifier.logits
    forms = {"deep": (apply, task.variables), "low rank": baseline.small(baseline.variables)}
    first = _ratios(base.measured(task, forms))["low rank"]
    budget, data = lcjax.Latency(min(first, 0.99), base.zeros(task)), calibration_data(task)
    try:
        plan = lcjax.plan_fits(apply, task.variables, data, budget=budget)
    except ValueError as error:
        raise ConfigError(f"no plan is as fast as low rank: {error}") from error
    found: tuple[float, base.Compressed] | None = None
    tried = []
    while plan.choice not in tried and len(tried) < _CHOICES:
        tried.append(plan.choice)
        done = fitted(task, plan.fits, data)
        ratios = _ratios(base.measured(task, forms | {"plan": (apply, done.variables)}))
        share = ratios["plan"] / ratios["low rank"]
        if share <= 1 and (found is None or share > found[0]):
            report = f"{plan}\n\n{done.report}"
            found = share, dataclasses.replace(done, report=report, times=ratios)
        if _NEAR <= share <= 1:
            break
        predicted = (plan.predicted.ms or 0.0) / (plan.table.deep.ms or 1.0)
        try:
            plan = plan.at(lcjax.Latency(min(predicted * _AIM / share, 0.99)))
        except ValueError:  # less than the least possible
            break
    if found is None:
        raise ConfigError(f"no plan is as fast as low rank, {first:.3f} of the deep model's time.")
    return found[1]


def _ratios(timed: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns the time of each form as a share of the deep model's."""
    ms = {name: next(iter(row["latency_ms"].values())) for name, row in timed.items()}
    return {name: own / ms["deep"] for name, own in ms.items() if name != "deep"}
