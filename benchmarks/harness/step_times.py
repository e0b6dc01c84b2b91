"""Times of training steps (deep, compact, student, with slopes) and of surgery."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import lcjax
from benchmarks.harness.finished_runs import fit_heal_config, fit_heal_settings
from benchmarks.harness.timing import interleaved, without_compilation
from train.config.base import InitConfig
from train.engine.loop import make_dispatch
from train.protocols import PROTOCOLS
from train.protocols.fitting import collapse_by_fit, make_plan
from train.runs.command import prepare
from train.runs.student import student
from train.runtime.memory import keep_freed_memory
from train.tasks.base import Task, keys


def step_seconds(run: Path, *, rounds: int = 15) -> dict[str, float]:
    """Returns the median seconds per step, interleaved.

    Args:
      run: finished, with collapsed sites. "healing" is a step of plain training of its compact
        topology, "student" one with its deep model as teacher, "deep" one of plain training of
        the deep model, "slopes" one of the deep model with slopes and penalty.
      rounds: timed dispatches of each, of ten steps.
    """
    keep_freed_memory()
    config = student(run)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps_per_dispatch=10))
    alone = dataclasses.replace(
        config, distillation=dataclasses.replace(config.distillation, teacher=None)
    )
    deep = dataclasses.replace(alone, init=InitConfig())
    penalty = dataclasses.replace(config.penalty, strength=0.01, slope_learning_rate=0.1)
    configs = {
        "healing": alone,
        "student": config,
        "deep": deep,
        "slopes": dataclasses.replace(deep, penalty=penalty),
    }
    jobs = {name: prepare(each, PROTOCOLS) for name, each in configs.items()}
    calls = {name: _call(job.task, job.protocol, job.state) for name, job in jobs.items()}
    seconds = interleaved({name: call for name, (call, _) in calls.items()}, rounds=rounds)
    return {name: statistics.median(seconds[name]) / calls[name][1] for name in calls}


def surgery_seconds(run: Path) -> float:
    """Returns the seconds to plan, fit and fuse a run's sites, without compilation.

    Args:
      run: finished, of protocol fit-heal.
    """
    config = fit_heal_config(run)
    settings, task = fit_heal_settings(config), prepare(config, PROTOCOLS).task
    budget = settings.size_budget() or lcjax.MaxDrop(settings.max_drop)

    def surgery() -> Any:
        plan = make_plan(task, settings, task.variables, budget)
        return collapse_by_fit(task, settings, task.variables, plan.sites)[0]

    jax.block_until_ready(surgery())  # functions that the task keeps compile once
    return without_compilation(surgery)


def _call(task: Task, protocol: Any, state: Any) -> tuple[Callable[[], Any], int]:
    """Returns a compiled call that continues training, and its number of steps."""
    stage = protocol.stage(Path(), [])
    dispatch = make_dispatch(stage.loss, stage.tx, stage.source, keys(task.config)[1])
    inputs = next(stage.source.inputs(0))

    def call() -> Any:
        nonlocal state
        state, metrics = dispatch(state, stage.source.arrays, inputs)
        return metrics

    return call, len(jax.tree.leaves(inputs)[0])
