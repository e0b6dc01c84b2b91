"""The optimizer of every run: AdamW with warm-up and cosine decay, collapsing."""

import jax
import optax

import lcjax
from lcjax.paths import leaf_path
from train.config import OptimizerConfig, PenaltyConfig


def make_optimizer(
    optimizer: OptimizerConfig, penalty: PenaltyConfig, steps: int
) -> optax.GradientTransformation:
    """Returns AdamW, its decay on kernels alone, within `lcjax.collapsing`."""
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optimizer.learning_rate,
        warmup_steps=int(optimizer.warmup * steps),
        decay_steps=steps,
    )
    inner = optax.adamw(rate, weight_decay=optimizer.weight_decay, mask=_kernels)
    if optimizer.clip_norm is not None:
        inner = optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), inner)
    return lcjax.collapsing(
        inner,
        strength=penalty.strength,
        penalty=penalty.penalty,
        slope_learning_rate=_from_step(int(penalty.start * steps), penalty.slope_learning_rate),
        last=penalty.last,
        where=penalty.where,
        steps=steps,
    )


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
