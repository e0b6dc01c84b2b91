"""Checks before a fit whether the calibration data have enough tokens."""

import sys
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import lcjax
from train.config.calibrated import CalibratedConfig
from train.runtime.devices import is_main_process
from train.tasks.base import Task

# With fewer tokens per input than this, held-out errors were twice those on the fitted tokens.
_ENOUGH = 4


def warn_if_too_few_tokens(
    task: Task, settings: CalibratedConfig, variables: Any, sites: Collection[str]
) -> None:
    """Warns on stderr if least squares would have few tokens for the inputs of a site.

    Where tokens are weighted by influence, their effective number is known after calibration only.

    Args:
      task: with the calibration data.
      settings: of the protocol.
      variables: of the deep model.
      sites: paths of sites that may be collapsed.
    """
    by_influence = settings.calibration_weighting != "equal"
    if settings.fit != "least_squares" or by_influence or not is_main_process():
        return
    widths = {site.path: site.d_in for site in lcjax.find_sites(variables) if site.path in sites}
    tokens = count_tokens(task, variables, widths)
    few = {path: width for path, width in widths.items() if tokens[path] < _ENOUGH * width}
    if few:
        worst = max(few, key=lambda path: few[path] / max(tokens[path], 1))
        print(
            f"warning: calibration has {tokens[worst]:,} tokens for the {few[worst]:,} inputs of "
            f"{worst}; expected at least {_ENOUGH * few[worst]:,}, since a fit of fewer does not "
            f"generalize. Raise --calibration-images ({settings.calibration_images:,} now) or use "
            "--fit per-unit.",
            file=sys.stderr,
            flush=True,
        )


def count_tokens(task: Task, variables: Any, sites: Collection[str]) -> dict[str, int]:
    """Returns how many calibration tokens pass each site; traces the model, computes nothing."""
    total, counts = dict.fromkeys(sites, 0), {}
    for batch in task.calibration:
        shapes = tuple(np.shape(each) for each in batch)
        if shapes not in counts:
            counts[shapes] = _tokens_of(task, variables, batch)
        mask = None if task.classifier.mask is None else np.asarray(task.classifier.mask(*batch))
        fraction = 1.0 if mask is None else float(mask.mean())
        for path in sites:
            total[path] += round(fraction * counts[shapes][path])
    return total


def _tokens_of(task: Task, variables: Any, batch: tuple[Any, ...]) -> dict[str, int]:
    """Returns the number of positions at every site for one batch."""
    found: dict[str, int] = {}

    def record(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = run(*args, **kwargs)
        if isinstance(context.module, lcjax.CollapsibleActivation | lcjax.CollapsibleGate):
            path = "/".join(context.module.path)
            found[path] = found.get(path, 0) + int(np.prod(np.shape(out)[:-1]))
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(task.classifier.logits, variables, *batch)
    return found
