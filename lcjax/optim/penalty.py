"""The linearity penalty: as a loss term, and as optax transforms.

Found by key path, so that it works on any tree with leaves named `slope`. Which leaves are slopes,
selection and weights are decided when `init` sees the tree and live in the optimizer state: sites
that a later collapse leaves keep the weight they had.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lcjax.errors import CollapseError
from lcjax.optim.strength import Penalty, check_penalty, check_positive, warn_if_short
from lcjax.tree.paths import leaf_path, site_of
from lcjax.tree.selection import Order, Weights
from lcjax.tree.slopes import (
    kept_patterns,
    narrow,
    on_marked,
    only_marked,
    owned_slopes,
    selecting,
    slope_tree,
    weighed,
)
from lcjax.validation.arguments import check_state, check_tree


class LinearityState(NamedTuple):
    """State of a penalty transform.

    Attributes:
      count: steps taken; int32 scalar.
      weights: float32 scalars where the params have slopes, `optax.MaskedNode` elsewhere.
      slopes: float32 copies of the slopes where some are narrower (bfloat16, float16), so that
        small steps add up; None where all are float32.
    """

    count: jax.Array
    weights: Any
    slopes: Any = None


def linearity_penalty(
    variables: Any,
    *,
    penalty: Penalty = "l2",
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
    order: Order | None = None,
) -> jax.Array:
    """Returns `Σ_s w_s (1 − α_s)²` (l2, the paper's term) or `Σ_s w_s |1 − α_s|` (l1).

    To be multiplied by a strength λ and added to the loss. Under Adam the strength of such a term
    hardly matters, since the gradient is rescaled: `with_linearity_penalty` is what works. A stacked site
    counts every layer.

    Args:
      variables: any tree with leaves named `slope`.
      penalty: "l2" or "l1".
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.
      order: all sites' paths in forward order, as `find_sites(..., apply_fn=)` or `f.sites` has
        them; needed by `last` and listed weights where names (encoder, decoder) do not decide it.

    Returns:
      a float32 scalar; dimensionless.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_tree(variables, "linearity_penalty", nested=False)
    check_penalty(penalty)
    sites, order = kept_patterns(sites), kept_patterns(order)
    owned = owned_slopes(variables, where, sites)
    weight_of = weighed(variables, last, where, sites, weights, order)
    total = jnp.zeros((), jnp.float32)
    for keys, slope in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if leaf_path(keys) in owned and site_of(keys) in weight_of:
            gap = 1 - jnp.asarray(slope, jnp.float32)
            distance = gap**2 if penalty == "l2" else jnp.abs(gap)
            total += weight_of[site_of(keys)] * distance.sum()
    return total


def add_linearity_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
    order: Order | None = None,
) -> optax.GradientTransformation:
    """Adds `2 λ w (α − 1)`, the gradient of `λ Σ w (1 − α)²`, to every chosen slope's update.

    In a chain it goes after the rescaling (`optax.scale_by_adam`) and before the learning rate:
    the paper's decoupled form. Before the rescaling Adam normalises the strength away; after the
    learning rate, where updates have been negated, it would push slopes from 1. With a learning
    rate η the gap shrinks by `1 − 2 η λ w` a step, which overshoots above `η λ w = ½`;
    `with_linearity_penalty(penalty="l2")` takes the implicit step that never does.

    Args:
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.
      order: all sites' paths in forward order, as `find_sites(..., apply_fn=)` or `f.sites` has
        them; needed by `last` and listed weights where names (encoder, decoder) do not decide it.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection, and on slopes
        narrower than float32.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_positive("strength", strength)
    sites, order = kept_patterns(sites), kept_patterns(order)

    def init(params):
        slope_tree(params, _check_wide, where, sites)
        return _init(params, last, where, sites, weights, order)

    def update(updates, state, params=None):
        need_params("add_linearity_penalty", params)
        check_state("add_linearity_penalty", state.weights, params)
        lam = now(strength, state.count)

        def pull(u, w, p):
            return u + (2 * lam * w * (p - 1)).astype(u.dtype)

        return on_marked(pull, updates, state.weights, params), _next(state)

    return optax.GradientTransformation(init, update)


def proximal_linearity_penalty(
    slope_learning_rate: optax.ScalarOrSchedule,
    strength: optax.ScalarOrSchedule,
    *,
    penalty: Penalty = "l1",
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
    order: Order | None = None,
    steps: int | None = None,
) -> optax.GradientTransformation:
    """Takes the proximal step of the penalty after a slope's own update; the last of a chain.

    With u the update that comes in, η the slope learning rate and `soft` the soft threshold:
    `α ← 1 − soft(1 − (α + u), η λ w)` for l1, `α ← 1 − (1 − (α + u)) / (1 + 2 η λ w)` for l2.
    For l1 with `u = −η ∂L/∂α` a slope rests at exactly 1 where `|∂L/∂α| ≤ λ w`: it collapses where
    that costs less than λ of loss. It has to see the final update: anything after it in the chain
    moves slopes off 1. Of slopes narrower than float32 its state has a float32 copy.

    Args:
      slope_learning_rate: η > 0, or a schedule of it.
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      penalty: "l1" or "l2".
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.
      order: all sites' paths in forward order, as `find_sites(..., apply_fn=)` or `f.sites` has
        them; needed by `last` and listed weights where names (encoder, decoder) do not decide it.
      steps: how many steps are planned; `init` warns where they cannot bring a slope to 1.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection.

    References:
      Parikh and Boyd 2014, Proximal Algorithms, sections 4.2 and 6.5.2.
    """
    check_penalty(penalty)
    check_positive("strength", strength)
    check_positive("slope_learning_rate", slope_learning_rate)
    sites, order = kept_patterns(sites), kept_patterns(order)

    def init(params):
        state = _init(params, last, where, sites, weights, order)
        if any(narrow(slope) for slope in jax.tree.leaves(_slopes(params, state.weights))):
            copies = only_marked(lambda w, p: _wide(w, p).copy(), state.weights, params)
            state = state._replace(slopes=copies)
        if steps is not None and selecting():
            warn_if_short(params, state.weights, slope_learning_rate, strength, penalty, steps)
        return state

    def update(updates, state, params=None):
        need_params("proximal_linearity_penalty", params)
        check_state("proximal_linearity_penalty", state.weights, params)
        reach = now(slope_learning_rate, state.count) * now(strength, state.count)

        def shrink(w, p, u, copy=None):
            start = _wide(w, p)
            if copy is not None:
                start = jnp.where(_rounded(copy, p) == start, copy, start)
            gap = 1 - (start + u.astype(start.dtype))
            if penalty == "l1":
                gap = jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - reach * w, 0)
            else:
                gap = gap / (1 + 2 * reach * w)
            return (1 - gap).astype(start.dtype)

        copies = () if state.slopes is None else (state.slopes,)
        ends = only_marked(shrink, state.weights, params, updates, *copies)
        updates = on_marked(
            lambda u, end, p: (_rounded(end, p) - _wide(end, p)).astype(u.dtype),
            updates,
            ends,
            params,
        )
        state = _next(state)
        return updates, state if state.slopes is None else state._replace(slopes=ends)

    return optax.GradientTransformation(init, update)


def now(value: optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """Returns a number, or a schedule's value at this step."""
    return value(count) if callable(value) else value


def need_params(name: str, params: Any) -> None:
    """Raises ValueError where params were not passed to a transform's update."""
    if params is None:
        raise ValueError(f"{name} needs `params`: call tx.update(grads, state, params).")


def _init(
    params: Any, last: Any, where: Any, sites: Any, weights: Any, order: Any
) -> LinearityState:
    weight_of = weighed(params, last, where, sites, weights, order)

    def weight(site: str, _: Any) -> jax.Array:
        return jnp.asarray(weight_of.get(site, 0.0), jnp.float32)

    return LinearityState(
        count=jnp.zeros([], jnp.int32), weights=slope_tree(params, weight, where, sites)
    )


def _slopes(params: Any, marks: Any) -> Any:
    return only_marked(lambda _, p: p, marks, params)


def _wide(_: Any, slope: Any) -> jax.Array:
    """Returns a slope in float32, or in its own dtype where that is wider."""
    return jnp.asarray(slope, jnp.float32) if narrow(slope) else jnp.asarray(slope)


def _rounded(value: jax.Array, like: Any) -> jax.Array:
    """Returns a value rounded to the dtype of another, in its own; no compiler leaves it out."""
    kind = jnp.finfo(jnp.result_type(like))
    return jax.lax.reduce_precision(value, kind.nexp, kind.nmant) if narrow(like) else value


def _check_wide(site: str, slope: Any) -> None:
    if narrow(slope):
        raise CollapseError(
            f"{site or '(root)'}: got a slope in {jnp.result_type(slope)}, expected float32: steps "
            "below its spacing near 1 would be lost. Cast slopes to float32, or use "
            "lcjax.with_linearity_penalty, which keeps a float32 copy."
        )


def _next(state: LinearityState) -> LinearityState:
    return state._replace(count=optax.safe_increment(state.count))
