"""Whether calibration data are enough for a fit, before anything is fitted."""

import sys
from typing import Any

import jax
import numpy as np

from lcjax.calibration.calibrate import runs_to_fit
from lcjax.calibration.capture import capture, into
from train.runtime.devices import is_first
from train.tasks.base import Task

# Held-out errors of fits from fewer tokens than this for every input were twice those on their own.
_ENOUGH = 4


def warn_if_starved(task: Task, variables: Any, sites: Any) -> None:
    """Says on stderr where least squares would have few tokens for a run's inputs.

    Args:
      task: with the calibration data.
      variables: of the deep model.
      sites: that may be collapsed.
    """
    if task.config.protocol.fit != "least_squares" or not is_first():
        return
    widths = {run.first: run.d_in for run in runs_to_fit(variables, sites)}
    tokens = tokens_into(task, variables, list(widths))
    few = {path: width for path, width in widths.items() if tokens[path] < _ENOUGH * width}
    if few:
        worst = max(few, key=lambda path: few[path] / max(tokens[path], 1))
        print(
            f"warning: calibration has {tokens[worst]:,} tokens for the {few[worst]:,} inputs of "
            f"{worst}; expected at least {_ENOUGH * few[worst]:,}, since a fit of fewer holds on "
            "no other data. Raise --calibration-images "
            f"({task.config.protocol.calibration_images:,} now) or take --fit moments.",
            file=sys.stderr,
            flush=True,
        )


def tokens_into(task: Task, variables: Any, paths: list[str]) -> dict[str, int]:
    """Returns how many tokens count that flow into these layers; traced, with nothing computed."""
    names = [into(path) for path in paths]
    total, shapes = dict.fromkeys(paths, 0), {}
    for batch in task.calibration:
        of_batch = tuple(np.shape(each) for each in batch)
        if of_batch not in shapes:
            values = jax.eval_shape(
                lambda tree, *xs: capture(task.classifier.logits, tree, xs, names),
                variables,
                *batch,
            )
            shapes[of_batch] = {
                path: sum(int(np.prod(value.shape[:-1])) for value in values[name])
                for path, name in zip(paths, names, strict=True)
            }
        mask = None if task.classifier.mask is None else np.asarray(task.classifier.mask(*batch))
        part = 1.0 if mask is None else float(mask.mean())
        for path in paths:
            total[path] += round(part * shapes[of_batch][path])
    return total
