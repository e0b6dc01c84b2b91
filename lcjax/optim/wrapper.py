"""The transform around an optimizer that lets sites become linear."""

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
from lcjax.optim.param_states import selects_sites
from lcjax.optim.penalty import proximal_linearity_penalty
from lcjax.optim.proximal_step import shrink
from lcjax.optim.selection import marks_of
from lcjax.optim.strength import Penalty, value_at_step, warn_if_unreachable
from lcjax.tree.selection import Selected, Weights, as_selection
from lcjax.tree.slopes import on_marked, only_marked
from lcjax.tree.units import units_like
from lcjax.validation.arguments import (
    check_number,
    check_optimizer,
    check_state,
    require_params,
)


class Accumulated(NamedTuple):
    """The gradients of slopes since the last step of an optimizer that accumulates.

    Attributes:
      count: number of gradients; int32 scalar.
      mean: their mean; float32, `optax.MaskedNode` where the params have no slope.
    """

    count: jax.Array
    mean: Any


class WithLinearityPenaltyState(NamedTuple):
    """State of `with_linearity_penalty`; `optax.MaskedNode` where the params have no slope.

    Checkpoints name these fields: a new name makes the checkpoints of earlier runs unreadable.

    Attributes:
      inner: state of the wrapped optimizer.
      momentum: float32 averages of the gradients of slopes.
      selected: whether the site of a slope is selected; bool scalars.
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
    sites: Selected = None,
    weights: Weights | None = None,
    steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that sites become linear where the data allows.

    `inner` runs once on the whole tree, slopes included, so that a transform of all gradients
    (`optax.clip_by_global_norm`) sees the same gradients as without this wrapper. It gets params
    with slopes of 0, so that decay does not act on them. The updates that it returns for slopes are
    replaced by momentum on their gradient g, `m ← μ m + (1 − μ) g`, with their own learning rate η,
    and the penalty's proximal step comes last (`proximal_linearity_penalty`). With l1 the strength
    λ is then in units of the loss: a slope rests at exactly 1 where `|∂L/∂α| ≤ λ w`, for every
    inner optimizer and learning rate. With l2 the gap at rest is `|∂L/∂α| / (2 λ w)`, which is
    not 0.

    Of a site with a slope for each of n units, each has the weight w / n and the learning rate n η:
    its price is that of a site with one slope, and on average its slopes move as that one does.
    A unit rests at exactly 1 where `|∂L/∂α_j| ≤ λ w / n`. The kernels in the params show whether a
    vector of slopes is of units or of stacked layers, so they must not be masked.

    Slopes that are not selected do not move. On steps that an inner `optax.apply_if_finite` or
    `optax.MultiSteps` skips, slopes do not move either; over steps that `MultiSteps` or
    `optax.apply_every` accumulates, slopes take the mean of their gradients. A slope's gradient
    that is not finite counts as 0, and no single gradient moves a slope against the penalty by more
    than 1 in total. Clipping inside bounds the weights only; to clip slopes by the same norm, clip
    first: `optax.chain(optax.clip_by_global_norm(1.0), lcjax.with_linearity_penalty(...))`.

    `optax.MultiSteps`, `optax.apply_if_finite`, `optax.contrib.sam` and `optax.lookahead` may wrap
    the result. Loss functions among the extra arguments (`obj_fn`) run with the true slopes. `init`
    rejects line searches, `optax.lbfgs` and other optimizers that evaluate slopes which are not
    taken. Averaged (EMA) params have slopes near 1, not at 1:
    `lcjax.collapse(ema, slopes_from=params)`.

    Args:
      inner: any optax optimizer.
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      penalty: "l1" (slopes reach exactly 1) or "l2" (the paper's).
      slope_learning_rate: η ≥ 0 of the slopes, or a schedule of it.
      momentum: μ in [0, 1).
      sites: paths, globs or `re.Pattern`s of the sites, or a `SiteSelection`; None
        for all.
      weights: one number, one for each selected site in forward order, or a mapping of globs to
        numbers; None gives every site weight 1.
      steps: number of planned steps; `init` warns if they cannot bring a slope to 1.

    Returns:
      an optax optimizer, whose `update` needs params.

    Raises:
      ValueError: on a number out of range; from `update` without params; from `init` on a selection
        that matches no site, a leaf named `slope` that may be the model's own, or an inner
        optimizer that cannot be wrapped.

    Example:
      >>> import jax.numpy as jnp, optax, lcjax
      >>> tx = lcjax.with_linearity_penalty(optax.adamw(1e-3, weight_decay=0.1), strength=0.05)
      >>> params = {"mlp": {"act_0": {"slope": jnp.zeros(())}}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["mlp"]["act_0"]["slope"]), 3)
      0.01
    """
    check_optimizer(inner)
    check_number("momentum", momentum)
    if not isinstance(momentum, Tracer) and not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}, must be in [0, 1).")
    selection = as_selection(sites)
    prices = proximal_linearity_penalty(
        slope_learning_rate, strength, penalty=penalty, sites=selection, weights=weights
    )
    inner = optax.with_extra_args_support(inner)

    def init(params):
        if isinstance(params, optax.LookaheadParams):
            raise CollapseError(
                "params: got optax.LookaheadParams, expected the params themselves. Put lookahead "
                "around: optax.lookahead(lcjax.with_linearity_penalty(...), sync_period, "
                "slow_step_size)."
            )
        marks = marks_of(params, selection)
        inner_state = inner.init(_zero_slopes(params, marks))
        check_inner(inner_state)
        is_accumulating = accumulates(inner_state)

        def zeros():
            return only_marked(lambda _, p: jnp.zeros(jnp.shape(p), jnp.float32), marks, params)

        priced: Any = prices.init(params)
        if steps is not None and selects_sites(params):
            of_sites = only_marked(
                lambda w, n: w if n == 1 else w * n, priced.weights, units_like(params)
            )
            warn_if_unreachable(params, of_sites, slope_learning_rate, strength, penalty, steps)
        return WithLinearityPenaltyState(
            inner=with_true_slopes(inner_state, marks, params),
            momentum=zeros(),
            selected=marks,
            shrink=priced,
            accumulated=Accumulated(jnp.zeros([], jnp.int32), zeros()) if is_accumulating else None,
        )

    def update(updates, state, params=None, **extra):
        require_params("with_linearity_penalty", params)
        check_state("with_linearity_penalty", state.selected, params)
        marks, units = state.selected, units_like(params)
        proposed, inner_state = inner.update(
            updates, state.inner, _zero_slopes(params, marks), **seeing_slopes(extra, marks, params)
        )
        decided = decision(state.inner, inner_state, marks)
        gradients = only_marked(lambda _, g: _finite(g), marks, updates)
        moves, accumulated = True, state.accumulated
        if decided is not None:
            moves = decided.counted & decided.moved
            if accumulated is not None:
                gradients, accumulated = _added(accumulated, gradients, decided)
        rate = value_at_step(slope_learning_rate, state.shrink.count)
        price = value_at_step(strength, state.shrink.count)

        def rate_of(n):
            return rate if n == 1 else n * rate

        def average(m, g, w, n):
            # One gradient moves a slope by at most 1 in total, plus the step of the penalty.
            most = 1 / jnp.maximum(rate_of(n), jnp.finfo(m.dtype).tiny) + price * w
            g = jnp.clip(g, -most, most)
            return jnp.clip(momentum * m + (1 - momentum) * g, -most, most).astype(m.dtype)

        momenta = only_marked(average, state.momentum, gradients, state.shrink.weights, units)
        moved = on_marked(lambda _, m, n: -rate_of(n) * m, proposed, momenta, units)
        moved, shrunk = shrink(penalty, rate * price, moved, state.shrink, params, units)
        proposed = on_marked(
            lambda u, mark, new: jnp.where(mark & moves, new, 0).astype(u.dtype),
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
        return proposed, WithLinearityPenaltyState(inner_state, momenta, marks, shrunk, accumulated)

    return optax.GradientTransformationExtraArgs(init, update)


def _zero_slopes(params: Any, marks: Any) -> Any:
    return on_marked(lambda p, _: jnp.zeros_like(p), params, marks)


def _finite(gradient: Any) -> jax.Array:
    gradient = jnp.asarray(gradient, jnp.float32)
    return jnp.where(jnp.isfinite(gradient), gradient, 0)


def _added(old: Accumulated, gradients: Any, decided: Decision) -> tuple[Any, Accumulated]:
    """Returns the mean of the gradients so far, and the accumulator after this step."""
    count = old.count + decided.counted

    def add(mean: Any, g: Any) -> Any:
        return jnp.where(decided.counted, mean + (g - mean) / jnp.maximum(count, 1), mean)

    mean = only_marked(add, old.mean, gradients)
    rest = only_marked(lambda m: jnp.where(decided.restarted, 0, m), mean)
    return mean, Accumulated(jnp.where(decided.restarted, 0, count), rest)
