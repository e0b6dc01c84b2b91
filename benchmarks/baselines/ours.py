"""The forms of lcjax, compressed and healed in the same harness as the baselines."""

from benchmarks.baselines import base
from benchmarks.harness.finished_runs import fit_heal_settings
from train.protocols.fitting import collapse_by_fit
from train.tasks.base import Task


def collapse_sites(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task with the sites of the target collapsed by the fit of the run."""
    settings = fit_heal_settings(task.config)
    compact, report = collapse_by_fit(task, settings, task.variables, target.sites)
    return base.Compressed(compact, lambda tx: tx, 0, str(report))
