"""Optimizers: AdamW with warm-up and cosine decay, plain or with the linearity penalty."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import lcjax
from train.config.base import OptimizerConfig, PenaltyConfig


def make_optimizer(
    optimizer: OptimizerConfig,
    penalty: PenaltyConfig,
    steps: int,
    *,
    strength: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """Returns AdamW, with decay of kernels only, inside `lcjax.with_linearity_penalty`.

    Args:
      optimizer: of the weights.
      penalty: of the slopes.
      steps: number of training steps.
      strength: replaces the strength of the penalty, if given.
    """
    return lcjax.with_linearity_penalty(
        make_adamw(optimizer, warmup_cosine(optimizer, steps)),
        strength=penalty.strength if strength is None else strength,
        penalty=penalty.penalty,
        slope_learning_rate=_from_step(int(penalty.start * steps), penalty.slope_learning_rate),
        sites=lcjax.SiteSelection(last=penalty.last, where=penalty.where),
        steps=steps,
    )


def make_adamw(optimizer: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW with decay of kernels only, and gradient clipping if configured."""
    adamw = optax.adamw(rate, weight_decay=optimizer.weight_decay, mask=_kernels)
    if optimizer.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), adamw)


def freeze_slopes(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `inner` with frozen slopes; it sees zero gradients for them."""

    def update(updates, state, params=None):
        zeroed = lcjax.map_slopes(jnp.zeros_like, updates)
        updates, state = inner.update(zeroed, state, params)
        return lcjax.map_slopes(jnp.zeros_like, updates), state

    return optax.GradientTransformation(inner.init, update)


def with_slopes_for(penalty: PenaltyConfig, variables: Any) -> Any:
    """Returns variables with the slopes that training begins with: of sites, or of their units."""
    if penalty.slope_per == "site":
        return variables

    def start(slope: jax.Array) -> jax.Array:
        linear = round(penalty.linear_units * slope.shape[-1]) if slope.ndim else 0
        return slope if not linear else slope.at[..., :linear].set(1)

    return lcjax.map_slopes(start, lcjax.with_unit_slopes(variables))


def warmup_cosine(
    optimizer: OptimizerConfig, steps: int, *, start: int = 0, peak: float | None = None
) -> optax.Schedule:
    """Returns a learning rate with linear warm-up and cosine decay to 0.

    Args:
      optimizer: with the length of the warm-up and the peak.
      steps: length of the schedule.
      start: number of its first step.
      peak: the largest rate, if not the optimizer's.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optimizer.learning_rate if peak is None else peak,
        warmup_steps=int(optimizer.warmup * steps),
        decay_steps=max(1, steps),
    )
    return lambda count: schedule(count - start)


def _from_step(start: int, rate: float) -> optax.ScalarOrSchedule:
    """Returns a rate that is 0 before step `start`."""
    if start == 0:
        return rate
    return optax.join_schedules(
        [optax.constant_schedule(0.0), optax.constant_schedule(rate)], [start]
    )


def _kernels(params: optax.Params) -> optax.Params:
    def is_kernel(keys: Any, _: Any) -> bool:
        names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
        return bool(names) and names[-1].endswith("kernel")

    return jax.tree_util.tree_map_with_path(is_kernel, params)
