"""The gap that a strength and a learning rate leave after some steps, and the inverse."""

import math
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from lcjax.tree.paths import is_slope, site_of
from lcjax.validation.arguments import check_number

Penalty = Literal["l1", "l2"]
# An L2 penalty never reaches 1; this is the gap at which the published method fuses.
_L2_REACHED = 0.05


def strength_for_gap(
    gap: float,
    learning_rate: optax.ScalarOrSchedule,
    steps: int,
    penalty: Penalty = "l1",
) -> float:
    """Returns the strength λ that brings a slope from 0 to a gap without a task gradient.

    Solves `1 − λ Σ_t η_t = gap` for l1 and `Π_t 1 / (1 + 2 λ η_t) = gap` for l2. A task gradient
    works against it (or with it), so this is the smallest strength to try, not a guarantee.

    Args:
      gap: `|1 − α|` at the end; in [0, 1) for l1, (0, 1) for l2.
      learning_rate: η of the slopes, or a schedule of it.
      steps: number of steps, at least 1.
      penalty: "l1" or "l2".

    Returns:
      λ in units of the loss, for a site of weight 1.

    Raises:
      ValueError: a gap, steps or penalty out of range.

    Example:
      >>> import lcjax
      >>> round(lcjax.strength_for_gap(0.0, 0.1, 100), 6)
      0.1
    """
    check_penalty(penalty)
    if not (0 <= gap < 1) or (gap == 0 and penalty == "l2"):
        expected = "in [0, 1)" if penalty == "l1" else "in (0, 1): an L2 penalty never reaches 0"
        raise ValueError(f"gap is {gap}, must be {expected}.")
    if steps < 1:
        raise ValueError(f"steps is {steps}, must be at least 1.")
    rates = _values_over_steps(learning_rate, steps)
    if not (np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
        raise ValueError("learning_rate must be finite, never negative, and somewhere above 0.")
    if penalty == "l1":
        return float((1 - gap) / rates.sum())
    low, high = 0.0, 1.0
    while _l2_gap(1.0, high * rates) > gap:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _l2_gap(1.0, middle * rates) > gap else (low, middle)
    return high


def warn_if_unreachable(
    params: Any,
    weights: Any,
    learning_rate: optax.ScalarOrSchedule,
    strength: optax.ScalarOrSchedule,
    penalty: Penalty,
    steps: int,
) -> None:
    """Warns if the penalty alone cannot bring a slope from its value to 1 in this many steps.

    Does not warn where slopes or strengths are traced, which have no values.

    Args:
      params: tree with leaves named `slope`.
      weights: tree of the same structure, a float32 scalar for every slope.
      learning_rate: η of the slopes, or a schedule of it.
      strength: λ, or a schedule of it.
      penalty: "l1" or "l2"; with l2 a gap of 0.05 counts as reached.
      steps: number of planned steps.
    """
    weight_of = {site_of(keys): w for keys, w in jax.tree_util.tree_leaves_with_path(weights)}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    slopes = {
        site_of(keys): leaf
        for keys, leaf in leaves
        if is_slope(keys) and site_of(keys) in weight_of
    }
    if any(
        isinstance(v, Tracer)
        for v in [*slopes.values(), *weight_of.values(), learning_rate, strength]
    ):
        return
    reach = _values_over_steps(learning_rate, steps) * _values_over_steps(strength, steps)
    short = {}
    for site, slope in slopes.items():
        gap, weight = (
            float(np.max(np.abs(1 - np.asarray(slope, np.float64)))),
            float(weight_of[site]),
        )
        left = gap - weight * reach.sum() if penalty == "l1" else _l2_gap(gap, weight * reach)
        reached = 1e-6 if penalty == "l1" else _L2_REACHED
        if weight > 0 and left > reached:
            short[site] = left
    if short:
        worst = max(short, key=lambda site: short[site])
        warnings.warn(
            f"{steps} steps of this strength and slope learning rate cannot bring {len(short)} of "
            f"{len(slopes)} slopes to 1: without a task gradient {worst or '(root)'} would end at "
            f"gap {short[worst]:.3f}. Raise strength, slope_learning_rate or steps; "
            "lcjax.strength_for_gap computes the smallest strength.",
            stacklevel=3,
        )


def check_penalty(penalty: str) -> None:
    """Raises ValueError unless the penalty is known."""
    if penalty not in ("l1", "l2"):
        raise ValueError(f"penalty is {penalty!r}, must be 'l1' or 'l2'.")


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless a number is finite and at least 0; schedules and tracers pass."""
    if callable(value) or isinstance(value, Tracer):
        return
    check_number(name, value)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, must be finite and at least 0.")


def value_at_step(value: optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """Returns a number, or a schedule's value at this step."""
    return value(count) if callable(value) else value


def _values_over_steps(value: optax.ScalarOrSchedule, steps: int) -> np.ndarray:
    """Returns a number's or a schedule's values at the steps 0 to steps − 1; float64."""
    if callable(value):
        return np.asarray(jax.vmap(value)(jnp.arange(steps)), np.float64)
    return np.full(steps, float(value))


def _l2_gap(gap: float, reach: np.ndarray) -> float:
    return gap * math.exp(-float(np.log1p(2 * reach).sum()))
