"""The optimizers of every run: AdamW with warm-up and cosine decay, plain or collapsing."""

import jax
import jax.numpy as jnp
import optax

import lcjax
from lcjax.tree.paths import leaf_path
from lcjax.tree.slopes import map_slopes
from train.config.base import OptimizerConfig, PenaltyConfig


def make_optimizer(
    optimizer: OptimizerConfig,
    penalty: PenaltyConfig,
    steps: int,
    *,
    strength: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """Returns AdamW, its decay on kernels alone, within `lcjax.with_linearity_penalty`.

    Args:
      optimizer: of the weights.
      penalty: of the slopes.
      steps: how many there will be.
      strength: takes the place of the penalty's own, if given.
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
    """Returns AdamW of this rate, its decay on kernels alone, the gradient clipped if asked for."""
    adamw = optax.adamw(rate, weight_decay=optimizer.weight_decay, mask=_kernels)
    if optimizer.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), adamw)


def holding_slopes(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer, whose state is that of `inner`, under which slopes stay as they are."""

    def update(updates, state, params=None):
        updates, state = inner.update(map_slopes(jnp.zeros_like, updates), state, params)
        return map_slopes(jnp.zeros_like, updates), state

    return optax.GradientTransformation(inner.init, update)


def warmup_cosine(
    optimizer: OptimizerConfig, steps: int, *, start: int = 0, peak: float | None = None
) -> optax.Schedule:
    """Returns a rate that rises, and falls to 0 by a cosine.

    Args:
      optimizer: says how long it rises, and how high.
      steps: from its start to its end.
      start: count of the step with which it starts.
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
    """Returns a rate that is 0 before a step."""
    if start == 0:
        return rate
    return optax.join_schedules(
        [optax.constant_schedule(0.0), optax.constant_schedule(rate)], [start]
    )


def _kernels(params: optax.Params) -> optax.Params:
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: leaf_path(keys).endswith("kernel"), params
    )
