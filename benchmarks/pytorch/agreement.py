"""Differences between lcjax's `--protocol paper` and the published method in PyTorch.

Both compute in float32, and rounding errors grow from step to step, as Adam divides small gradients
by their own size. PyTorch in float64 gives the size of rounding errors: lcjax agrees when it is as
close to float64 as PyTorch's float32 is, with Adam's bias corrections in float64 rounded as optax
rounds them. The effect of these corrections alone is reported too.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

import lcjax
from benchmarks.pytorch.networks import state_of
from benchmarks.pytorch.training import Training, arrays
from train.engine.loop import SLOPE, TrainState, make_dispatch
from train.protocols import PROTOCOLS
from train.runs.command import Job, prepare
from train.tasks.base import keys
from train.tasks.image.config import ImageConfig

# Bound on lcjax's distance from float64 relative to that of PyTorch's float32: the two sum in
# different orders, and training amplifies the difference, so that either may be closer.
ROUNDINGS = 10
COMPARED = ("loss", "slopes", "weights", "fused")
PAIRS = (
    ("lcjax", "PyTorch"),
    ("lcjax", "PyTorch as optax"),
    ("lcjax", "float64"),
    ("lcjax", "float64 as optax"),
    ("PyTorch", "float64"),
)


class Outcome(NamedTuple):
    """The state after some steps of training.

    Attributes:
      loss: before every step.
      slopes: after the last, in forward order.
      weights: tensors under PyTorch's names, slopes among them.
      fused: tensors of the network with sites fused.
      collapsed: the fused sites.
    """

    loss: np.ndarray
    slopes: np.ndarray
    weights: dict[str, np.ndarray]
    fused: dict[str, np.ndarray]
    collapsed: list[str]


def ready(config: ImageConfig) -> Job:
    """Returns lcjax's run of the published method, ready to start."""
    return prepare(config, PROTOCOLS)


def chosen_sites(job: Job) -> list[str]:
    """Returns the paths of the sites whose slopes move, in forward order."""
    penalty = job.task.config.penalty
    return lcjax.select_sites(job.state.params, last=penalty.last, where=penalty.where)


def torch_training(job: Job, **how: Any) -> Training:
    """Returns PyTorch's run from the same weights on the same data; `how` as for `Training`."""
    task = job.task
    sites = chosen_sites(job)
    config: Any = task.config  # of images
    return Training(config, task.data, job.state.params, sites, task.steps, **how)


def dispatching(job: Job) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """Returns lcjax's compiled `steps(state, batches)`; the state is donated."""
    stage = job.protocol.stage(Path(), [])
    dispatch = make_dispatch(stage.loss, stage.tx, stage.source, keys(job.task.config)[1])
    return lambda state, batches: dispatch(state, stage.source.arrays, batches)


def batches(job: Job, steps: int) -> np.ndarray:
    """Returns the first batches of the run: indices (steps, batch)."""
    parts, count = [], 0
    for part in job.task.source.inputs(0):
        parts.append(part[: steps - count])
        count += len(parts[-1])
        if count == steps:
            return np.concatenate(parts)
    raise RuntimeError(f"the data ended after {count} steps, expected {steps}.")


def ours(job: Job, given: np.ndarray, max_gap: float) -> Outcome:
    """Returns the outcome of lcjax."""
    state = jax.tree.map(jnp.copy, job.state)
    state, metrics = dispatching(job)(state, given)
    sites = chosen_sites(job)
    slopes = np.array([metrics[SLOPE + site][-1] for site in sites])
    near = [site for site, slope in zip(sites, slopes, strict=True) if abs(1 - slope) < max_gap]
    fused, report = lcjax.collapse(state.params, near or None, lcjax.Exact(max_gap=max_gap))
    weights, loss = state_of(state.params), np.asarray(metrics["train/loss"])
    return Outcome(loss, slopes, weights, state_of(fused), list(report.collapsed))


def theirs(job: Job, given: np.ndarray, max_gap: float, **how: Any) -> Outcome:
    """Returns the outcome of PyTorch; `how` as for `Training`."""
    training = torch_training(job, **how)
    losses = torch.stack(training.take(given)).numpy()
    network, fused = training.compact(max_gap)
    slopes = np.array(training.slopes())
    return Outcome(losses, slopes, arrays(training.network), arrays(network), fused)


def agreement(config: ImageConfig, steps: int, max_gap: float = math.inf) -> dict[str, Any]:
    """Returns the differences between runs of the published method after some steps.

    Args:
      config: of the run.
      steps: number of steps.
      max_gap: sites of a smaller gap are fused; by default all that are chosen.

    Returns:
      for "loss" and "slopes" the largest relative difference, for "weights" and "fused" the norm of
      the difference over the norm, both of all tensors; the sites that each collapsed; and whether
      lcjax agrees to rounding.
    """
    job = ready(config)
    given = batches(job, steps)
    runs = {
        "lcjax": ours(job, given, max_gap),
        "PyTorch": theirs(job, given, max_gap),
        "PyTorch as optax": theirs(job, given, max_gap, as_optax=True),
        "float64": theirs(job, given, max_gap, dtype=torch.float64),
        "float64 as optax": theirs(job, given, max_gap, dtype=torch.float64, as_optax=True),
    }
    apart = {
        name: {f"{one} - {other}": _apart(runs[one], runs[other], name) for one, other in PAIRS}
        for name in COMPARED
    }
    near = all(_as_near(each) for each in apart.values())
    collapsed = {name: run.collapsed for name, run in runs.items()}
    return {
        "steps": steps,
        "loss of the last step": {name: float(run.loss[-1]) for name, run in runs.items()},
        "slopes reached": {name: run.slopes.tolist() for name, run in runs.items()},
        "collapsed": collapsed,
        **apart,
        "agrees": near and collapsed["lcjax"] == collapsed["PyTorch"],
    }


def _as_near(apart: dict[str, float]) -> bool:
    bound = max(ROUNDINGS * apart["PyTorch - float64"], 4 * float(np.finfo(np.float32).eps))
    return apart["lcjax - float64 as optax"] <= bound


def _apart(one: Outcome, other: Outcome, name: str) -> float:
    a, b = getattr(one, name), getattr(other, name)
    if isinstance(b, dict):
        a, b = (np.concatenate([each[key].ravel() for key in b]) for each in (a, b))
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return float((np.abs(a - b) / np.abs(b)).max())
