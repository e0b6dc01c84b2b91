"""Training steps and forward passes of lcjax and PyTorch, ready for interleaved timing."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

import lcjax
from benchmarks.pytorch.agreement import (
    batches,
    chosen_sites,
    dispatching,
    torch_training,
)
from train.runs.command import Job
from train.runs.latency import compile_forward

Calls = dict[str, Callable[[], Any]]


def step_calls(job: Job, steps: int, *, compiled: bool) -> Calls:
    """Returns calls that each continue training, from lcjax's initial weights.

    Args:
      job: lcjax's run of the published method.
      steps: per call.
      compiled: whether to include `torch.compile`.
    """
    given = batches(job, steps)
    options: dict[str, dict[str, Any]] = {"PyTorch": {}, "PyTorch, fused AdamW": {"fused": True}}
    if compiled:
        options["PyTorch, fused AdamW, compiled"] = {"fused": True, "compiled": True}
    calls: Calls = {"lcjax": _dispatches(job, given)}
    for name, how in options.items():
        calls[name] = partial(_take, torch_training(job, **how), given)
    return calls


def forward_calls(job: Job, form: str, batch: int, *, compiled: bool) -> Calls:
    """Returns calls that each compute the logits of one batch.

    Args:
      job: lcjax's run of the published method.
      form: "deep", or "compact": the chosen sites fused.
      batch: images per call.
      compiled: whether to include `torch.compile`.
    """
    task, training = job.task, torch_training(job)
    variables, network = job.state.variables, training.network
    if form == "compact":
        variables, _ = lcjax.collapse(variables, chosen_sites(job), lcjax.Exact(max_gap=math.inf))
        network, _ = training.compact(math.inf)
    network.eval()
    images = task.data.train.images[:batch]
    ours = jax.device_put(jnp.asarray(images))
    forward = compile_forward(task.classifier.logits, variables, ours)
    theirs = torch.from_numpy(images.copy())
    logits = partial(training.logits, network)
    calls: Calls = {
        "lcjax": lambda: forward(variables, ours),
        "PyTorch": partial(_infer, logits, theirs),
    }
    if compiled:
        calls["PyTorch, compiled"] = partial(_infer, torch.compile(logits, dynamic=False), theirs)
    return calls


def repeated(calls: Calls, times: int) -> Calls:
    """Returns calls that each repeat one of these."""

    def again(call: Callable[[], Any]) -> Any:
        return [call() for _ in range(times)]

    return {name: partial(again, call) for name, call in calls.items()}


def _dispatches(job: Job, given: np.ndarray) -> Callable[[], Any]:
    dispatch, state = dispatching(job), jax.tree.map(jnp.copy, job.state)

    def call() -> Any:
        nonlocal state
        state, metrics = dispatch(state, given)
        return metrics

    return call


def _take(training: Any, given: np.ndarray) -> None:
    training.take(given)


def _infer(logits: Callable[[Any], Any], images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return logits(images)
