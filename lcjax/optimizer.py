"""The one line around a user's optimizer that lets sites become linear."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from lcjax.arguments import check_number, check_optimizer, check_state
from lcjax.penalty import (
    need_params,
    now,
    on_slopes,
    selected,
    shrink_linearity_gap,
    slope_tree,
)
from lcjax.selection import Weights
from lcjax.strength import Penalty


class CollapsingState(NamedTuple):
    """State of `collapsing`; trees have `optax.MaskedNode` where the params have no slope.

    Attributes:
      inner: state of the wrapped optimizer.
      momentum: float32 averages of the slopes' gradients.
      selected: whether a slope moves at all; bool scalars.
      shrink: `LinearityState` of the penalty.
    """

    inner: Any
    momentum: Any
    selected: Any
    shrink: Any


def collapsing(
    inner: optax.GradientTransformation,
    *,
    strength: optax.ScalarOrSchedule,
    penalty: Penalty = "l1",
    slope_learning_rate: optax.ScalarOrSchedule = 0.2,
    momentum: float = 0.9,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
    steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer one that lets sites become linear where the data allows.

    `inner` runs once on the whole tree, slopes included, so that what looks at all gradients
    (`optax.clip_by_global_norm`) does what it does without this; it is shown slopes of 0, so that
    no decay touches them. What it proposes for slopes is replaced by plain momentum on their
    gradient g, `m ← μ m + (1 − μ) g`, with a learning rate η of their own, and the penalty's
    proximal step comes last (`shrink_linearity_gap`). With l1 the strength λ is then in units of
    the loss: at rest a slope is exactly 1 where `|∂L/∂α| ≤ λ w`, whatever the inner optimizer and
    its learning rate. With l2 the gap at rest is `|∂L/∂α| / (2 λ w)`, which is not 0.

    Slopes that are not selected stay where they are. It goes outermost: around every other
    transform but `optax.MultiSteps`, which goes around it; inside, slopes too move only on the
    steps on which MultiSteps lets weights move. Averaged (EMA) params have slopes near 1, not at
    1: take slopes from the raw params.

    Args:
      inner: any optax optimizer.
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      penalty: "l1" (sites choose themselves) or "l2" (the paper's).
      slope_learning_rate: η ≥ 0 of the slopes, or a schedule of it.
      momentum: μ in [0, 1).
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.
      steps: how many steps are planned; `init` warns where they cannot bring a slope to 1.

    Raises:
      ValueError: a number out of range; from `update` without params; from `init` on a selection
        that names no site.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = collapsing(optax.adamw(1e-3, weight_decay=0.1), strength=0.05)
      >>> params = {"mlp": {"act_0": {"slope": jnp.zeros(())}}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["mlp"]["act_0"]["slope"]), 3)
      0.01
    """
    check_optimizer(inner)
    check_number("momentum", momentum)
    if not isinstance(momentum, Tracer) and not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}, must be in [0, 1).")
    shrink = shrink_linearity_gap(
        slope_learning_rate,
        strength,
        penalty=penalty,
        last=last,
        where=where,
        sites=sites,
        weights=weights,
        steps=steps,
    )
    inner = optax.with_extra_args_support(inner)

    def init(params):
        chosen = set(selected(params, last, where, sites))
        return CollapsingState(
            inner=inner.init(_hide(params)),
            momentum=slope_tree(params, lambda _, p: jnp.zeros(jnp.shape(p), jnp.float32)),
            selected=slope_tree(params, lambda site, _: jnp.array(site in chosen)),
            shrink=shrink.init(params),
        )

    def update(updates, state, params=None, **extra):
        need_params("collapsing", params)
        check_state("collapsing", state.selected, params)
        proposed, inner_state = inner.update(updates, state.inner, _hide(params), **extra)
        moves = _moves(inner_state)
        gradients = _slopes_only(updates)
        momenta = jax.tree.map(
            lambda m, g: (momentum * m + (1 - momentum) * g).astype(m.dtype),
            state.momentum,
            gradients,
        )
        rate = now(slope_learning_rate, state.shrink.count)
        proposed = on_slopes(lambda u, m: (-rate * m).astype(u.dtype), proposed, momenta)
        proposed, shrunk = shrink.update(proposed, state.shrink, params)
        proposed = on_slopes(
            lambda u, chosen: jnp.where(chosen & moves, u, jnp.zeros_like(u)),
            proposed,
            state.selected,
        )
        shrunk = jax.tree.map(lambda new, old: jnp.where(moves, new, old), shrunk, state.shrink)
        return proposed, CollapsingState(inner_state, momenta, state.selected, shrunk)

    return optax.GradientTransformationExtraArgs(init, update)


def _hide(params: Any) -> Any:
    return on_slopes(jnp.zeros_like, params)


def _slopes_only(tree: Any) -> Any:
    return slope_tree(tree, lambda _, leaf: leaf)


def _moves(inner_state: Any) -> Any:
    """Returns whether this step moves weights: not within MultiSteps' accumulation."""
    if isinstance(inner_state, optax.MultiStepsState):
        return inner_state.mini_step == 0
    return True
