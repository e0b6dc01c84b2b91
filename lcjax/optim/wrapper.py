"""The one line around a user's optimizer that lets sites become linear."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from lcjax.errors import CollapseError
from lcjax.optim.inner_state import (
    Decision,
    accumulates,
    check_inner,
    decision,
    seeing_slopes,
    with_true_slopes,
)
from lcjax.optim.penalty import need_params, now, proximal_linearity_penalty
from lcjax.optim.strength import Penalty
from lcjax.tree.selection import Order, Weights
from lcjax.tree.slopes import kept_patterns, on_marked, only_marked, selected, slope_tree
from lcjax.validation.arguments import check_number, check_optimizer, check_state


class Accumulated(NamedTuple):
    """The slopes' gradients since the last step of an optimizer that accumulates.

    Attributes:
      count: how many; int32 scalar.
      mean: their mean; float32, `optax.MaskedNode` where the params have no slope.
    """

    count: jax.Array
    mean: Any


class CollapsingState(NamedTuple):
    """State of `with_linearity_penalty`; trees have `optax.MaskedNode` where the params have no slope.

    Attributes:
      inner: state of the wrapped optimizer.
      momentum: float32 averages of the slopes' gradients.
      selected: whether a slope moves at all; bool scalars.
      shrink: `LinearityState` of the penalty.
      accumulated: `Accumulated` where the wrapped optimizer accumulates gradients, else None.
    """

    inner: Any
    momentum: Any
    selected: Any
    shrink: Any
    accumulated: Any = None


def with_linearity_penalty(
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
    order: Order | None = None,
    steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer one that lets sites become linear where the data allows.

    `inner` runs once on the whole tree, slopes included, so that what looks at all gradients
    (`optax.clip_by_global_norm`) does what it does without this; it is shown slopes of 0, so that
    no decay touches them. What it proposes for slopes is replaced by plain momentum on their
    gradient g, `m ← μ m + (1 − μ) g`, with a learning rate η of their own, and the penalty's
    proximal step comes last (`proximal_linearity_penalty`). With l1 the strength λ is then in units of
    the loss: at rest a slope is exactly 1 where `|∂L/∂α| ≤ λ w`, whatever the inner optimizer and
    its learning rate. With l2 the gap at rest is `|∂L/∂α| / (2 λ w)`, which is not 0.

    Slopes that are not selected stay where they are. On steps that `optax.apply_if_finite` or
    `optax.MultiSteps` inside skips, slopes stay too; over steps that `MultiSteps` or
    `optax.apply_every` accumulates, slopes take the mean of their gradients. A gradient of a slope
    that is not finite counts as 0, and no single one moves a slope, against the penalty, by more
    than 1 in all. What clips gradients inside bounds weights alone; to clip slopes by the same
    norm put it before, `optax.chain(optax.clip_by_global_norm(1.0), lcjax.with_linearity_penalty(...))`.

    Around it may go `optax.MultiSteps`, `optax.apply_if_finite`, `optax.contrib.sam` and
    `optax.lookahead`. Loss functions among the extra arguments (`obj_fn`) are run with the true
    slopes. Line searches, `optax.lbfgs` and what else would need slopes that are not taken are
    refused by `init`. Averaged (EMA) params have slopes near 1, not at 1:
    `lcjax.collapse(ema, slopes_from=params)`.

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
      order: all sites' paths in forward order, as `find_sites(..., apply_fn=)` or `f.sites` has
        them; needed by `last` and listed weights where names (encoder, decoder) do not decide it.
      steps: how many steps are planned; `init` warns where they cannot bring a slope to 1.

    Raises:
      ValueError: a number out of range; from `update` without params; from `init` on a selection
        that names no site, a leaf named `slope` that may be the model's own, or an inner optimizer
        that is refused.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = with_linearity_penalty(optax.adamw(1e-3, weight_decay=0.1), strength=0.05)
      >>> params = {"mlp": {"act_0": {"slope": jnp.zeros(())}}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["mlp"]["act_0"]["slope"]), 3)
      0.01
    """
    check_optimizer(inner)
    check_number("momentum", momentum)
    if not isinstance(momentum, Tracer) and not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}, must be in [0, 1).")
    sites, order = kept_patterns(sites), kept_patterns(order)
    shrink = proximal_linearity_penalty(
        slope_learning_rate,
        strength,
        penalty=penalty,
        last=last,
        where=where,
        sites=sites,
        weights=weights,
        order=order,
        steps=steps,
    )
    inner = optax.with_extra_args_support(inner)

    def init(params):
        if isinstance(params, optax.LookaheadParams):
            raise CollapseError(
                "params: got optax.LookaheadParams, expected the params themselves. Put lookahead "
                "around: optax.lookahead(lcjax.with_linearity_penalty(...), sync_period, slow_step_size)."
            )
        chosen = set(selected(params, last, where, sites, order))
        marks = slope_tree(params, lambda site, _: jnp.array(site in chosen), where, sites)
        inner_state = inner.init(_hide(params, marks))
        check_inner(inner_state)
        adds_up = accumulates(inner_state)

        def still():
            return only_marked(lambda _, p: jnp.zeros(jnp.shape(p), jnp.float32), marks, params)

        return CollapsingState(
            inner=with_true_slopes(inner_state, marks, params),
            momentum=still(),
            selected=marks,
            shrink=shrink.init(params),
            accumulated=Accumulated(jnp.zeros([], jnp.int32), still()) if adds_up else None,
        )

    def update(updates, state, params=None, **extra):
        need_params("with_linearity_penalty", params)
        check_state("with_linearity_penalty", state.selected, params)
        marks = state.selected
        proposed, inner_state = inner.update(
            updates, state.inner, _hide(params, marks), **seeing_slopes(extra, marks, params)
        )
        said = decision(state.inner, inner_state, marks)
        gradients = only_marked(lambda _, g: _finite(g), marks, updates)
        moves, accumulated = True, state.accumulated
        if said is not None:
            moves = said.counted & said.moved
            if accumulated is not None:
                gradients, accumulated = _added(accumulated, gradients, said)
        rate = now(slope_learning_rate, state.shrink.count)
        price = now(strength, state.shrink.count)

        def average(m, g, w):
            # One gradient moves a slope by at most 1 in all beyond what the penalty takes back.
            most = 1 / jnp.maximum(rate, jnp.finfo(m.dtype).tiny) + price * w
            g = jnp.clip(g, -most, most)
            return jnp.clip(momentum * m + (1 - momentum) * g, -most, most).astype(m.dtype)

        momenta = only_marked(average, state.momentum, gradients, state.shrink.weights)
        moved = on_marked(lambda _, m: -rate * m, proposed, momenta)
        moved, shrunk = shrink.update(moved, state.shrink, params)
        proposed = on_marked(
            lambda u, chosen, new: jnp.where(chosen & moves, new, 0).astype(u.dtype),
            proposed,
            marks,
            moved,
        )
        momenta, shrunk = jax.tree.map(
            lambda new, old: new if moves is True else jnp.where(moves, new, old),
            (momenta, shrunk),
            (state.momentum, state.shrink),
        )
        ends = only_marked(lambda _, p, u: p + u.astype(p.dtype), marks, params, proposed)
        inner_state = with_true_slopes(inner_state, marks, ends)
        return proposed, CollapsingState(inner_state, momenta, marks, shrunk, accumulated)

    return optax.GradientTransformationExtraArgs(init, update)


def _hide(params: Any, marks: Any) -> Any:
    return on_marked(lambda p, _: jnp.zeros_like(p), params, marks)


def _finite(gradient: Any) -> jax.Array:
    gradient = jnp.asarray(gradient, jnp.float32)
    return jnp.where(jnp.isfinite(gradient), gradient, 0)


def _added(old: Accumulated, gradients: Any, said: Decision) -> tuple[Any, Accumulated]:
    """Returns the mean of the gradients so far, and what is accumulated after this step."""
    count = old.count + said.counted

    def add(mean: Any, g: Any) -> Any:
        return jnp.where(said.counted, mean + (g - mean) / jnp.maximum(count, 1), mean)

    mean = only_marked(add, old.mean, gradients)
    left = only_marked(lambda m: jnp.where(said.restarted, 0, m), mean)
    return mean, Accumulated(jnp.where(said.restarted, 0, count), left)
