"""What a training step takes: of a deep model, of the compact one, and of its student."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.interleave import interleaved
from train.command import prepare
from train.distill import student
from train.heap import keep_freed_memory
from train.loop import make_dispatch
from train.task import Task, keys


def step_seconds(run: Path, *, rounds: int = 15) -> dict[str, float]:
    """Returns the median seconds a step, by turns, so that other load falls on both alike.

    Args:
      run: finished, with sites collapsed. "healing" is a step of plain training of its compact
        topology, "student" one with its deep model for a teacher, "deep" one of plain training of
        the deep model, "slopes" one of that with slopes and penalty.
      rounds: timed dispatches of each, of ten steps.
    """
    keep_freed_memory()
    config, make_task = student(run)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps_per_dispatch=10))
    alone = dataclasses.replace(config.protocol, teacher=None)
    new = dataclasses.replace(alone, collapsed_from=None)
    bent = dataclasses.replace(config.penalty, strength=0.01, slope_learning_rate=0.1)
    configs = {
        "healing": dataclasses.replace(config, protocol=alone),
        "student": config,
        "deep": dataclasses.replace(config, protocol=new),
        "slopes": dataclasses.replace(config, protocol=new, penalty=bent),
    }
    jobs = {name: prepare(each, make_task) for name, each in configs.items()}
    calls = {name: _call(job.task, job.protocol, job.state) for name, job in jobs.items()}
    seconds = interleaved({name: call for name, (call, _) in calls.items()}, rounds=rounds)
    return {name: statistics.median(seconds[name]) / calls[name][1] for name in calls}


def _call(task: Task, protocol: Any, state: Any) -> tuple[Callable[[], Any], int]:
    """Returns a call that trains on, compiled, and how many steps it takes."""
    stage = protocol.stage(Path(), [])
    dispatch = make_dispatch(stage.loss, stage.tx, stage.source, keys(task.config)[1])
    inputs = next(stage.source.inputs(0))
    held = state

    def call() -> Any:
        nonlocal held
        held, metrics = dispatch(held, stage.source.arrays, inputs)
        return metrics

    return call, len(jax.tree.leaves(inputs)[0])
