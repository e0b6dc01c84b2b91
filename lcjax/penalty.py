"""The linearity penalty: as a loss term, and as optax transforms.

Found by key path, so that it works on any tree with leaves named `slope`. Selection and weights
are decided when `init` sees the tree and live in the optimizer state: sites that a later collapse
leaves keep the weight they had.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lcjax.arguments import check_state, check_tree
from lcjax.paths import is_slope, site_of
from lcjax.selection import Weights, choose, weigh
from lcjax.strength import Penalty, check_penalty, check_positive, warn_if_short

_selecting: ContextVar[bool] = ContextVar("selecting", default=True)


@contextmanager
def without_selection() -> Iterator[None]:
    """Lets `init` select nothing, for a state into which the old selection is then carried."""
    token = _selecting.set(False)
    try:
        yield
    finally:
        _selecting.reset(token)


class LinearityState(NamedTuple):
    """State of a penalty transform.

    Attributes:
      count: steps taken; int32 scalar.
      weights: float32 scalars where the params have slopes, `optax.MaskedNode` elsewhere.
    """

    count: jax.Array
    weights: Any


def linearity_penalty(
    variables: Any,
    *,
    penalty: Penalty = "l2",
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
) -> jax.Array:
    """Returns `Σ_s w_s (1 − α_s)²` (l2, the paper's term) or `Σ_s w_s |1 − α_s|` (l1).

    To be multiplied by a strength λ and added to the loss. Under Adam the strength of such a term
    hardly matters, since the gradient is rescaled: `collapsing` is what works. A stacked site
    counts every layer.

    Args:
      variables: any tree with leaves named `slope`.
      penalty: "l2" or "l1".
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.

    Returns:
      a float32 scalar; dimensionless.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_tree(variables, "linearity_penalty", nested=False)
    check_penalty(penalty)
    weighed = _weighed(variables, last, where, sites, weights)
    total = jnp.zeros((), jnp.float32)
    for keys, slope in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if is_slope(keys) and site_of(keys) in weighed:
            gap = 1 - jnp.asarray(slope, jnp.float32)
            distance = gap**2 if penalty == "l2" else jnp.abs(gap)
            total += weighed[site_of(keys)] * distance.sum()
    return total


def add_linearity_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
) -> optax.GradientTransformation:
    """Adds `2 λ w (α − 1)`, the gradient of `λ Σ w (1 − α)²`, to every chosen slope's update.

    In a chain it goes after the rescaling (`optax.scale_by_adam`) and before the learning rate:
    the paper's decoupled form. Before the rescaling Adam normalises the strength away; after the
    learning rate, where updates have been negated, it would push slopes from 1. With a learning
    rate η the gap shrinks by `1 − 2 η λ w` a step, which overshoots above `η λ w = ½`;
    `collapsing(penalty="l2")` takes the implicit step that never does.

    Args:
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_positive("strength", strength)

    def init(params):
        return _init(params, last, where, sites, weights)

    def update(updates, state, params=None):
        need_params("add_linearity_penalty", params)
        check_state("add_linearity_penalty", state.weights, params)
        lam = now(strength, state.count)

        def pull(u, p, w):
            return u + (2 * lam * w * (p - 1)).astype(u.dtype)

        return on_slopes(pull, updates, params, state.weights), _next(state)

    return optax.GradientTransformation(init, update)


def shrink_linearity_gap(
    slope_learning_rate: optax.ScalarOrSchedule,
    strength: optax.ScalarOrSchedule,
    *,
    penalty: Penalty = "l1",
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    weights: Weights | None = None,
    steps: int | None = None,
) -> optax.GradientTransformation:
    """Takes the proximal step of the penalty after a slope's own update; the last of a chain.

    With u the update that comes in, η the slope learning rate and `soft` the soft threshold:
    `α ← 1 − soft(1 − (α + u), η λ w)` for l1, `α ← 1 − (1 − (α + u)) / (1 + 2 η λ w)` for l2.
    For l1 with `u = −η ∂L/∂α` a slope rests at exactly 1 where `|∂L/∂α| ≤ λ w`: it collapses where
    that costs less than λ of loss. It has to see the final update: anything after it in the chain
    moves slopes off 1.

    Args:
      slope_learning_rate: η > 0, or a schedule of it.
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      penalty: "l1" or "l2".
      last: how many sites from the last (int) or which fraction of them (float); None for all.
      where: a glob over site paths.
      sites: paths or globs.
      weights: one number, one for each chosen site in forward order, or a mapping of globs to
        numbers; None weighs every site 1.
      steps: how many steps are planned; `init` warns where they cannot bring a slope to 1.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection.

    References:
      Parikh and Boyd 2014, Proximal Algorithms, sections 4.2 and 6.5.2.
    """
    check_penalty(penalty)
    check_positive("strength", strength)
    check_positive("slope_learning_rate", slope_learning_rate)

    def init(params):
        state = _init(params, last, where, sites, weights)
        if steps is not None and _selecting.get():
            warn_if_short(params, state.weights, slope_learning_rate, strength, penalty, steps)
        return state

    def update(updates, state, params=None):
        need_params("shrink_linearity_gap", params)
        check_state("shrink_linearity_gap", state.weights, params)
        reach = now(slope_learning_rate, state.count) * now(strength, state.count)

        def shrink(u, p, w):
            gap = 1 - (p + u)
            if penalty == "l1":
                gap = jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - reach * w, 0)
            else:
                gap = gap / (1 + 2 * reach * w)
            return ((1 - gap) - p).astype(u.dtype)

        return on_slopes(shrink, updates, params, state.weights), _next(state)

    return optax.GradientTransformation(init, update)


def site_paths(params: Any) -> list[str]:
    """Returns the paths of all sites that a tree has slopes for."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return [site_of(keys) for keys, _ in flat if is_slope(keys)]


def slope_tree(params: Any, leaf: Callable[[str, Any], Any]) -> Any:
    """Returns a tree like params with `leaf(site, slope)` at slopes, MaskedNode elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, p: leaf(site_of(keys), p) if is_slope(keys) else optax.MaskedNode(), params
    )


def on_slopes(fn: Callable[..., Any], updates: Any, *trees: Any) -> Any:
    """Returns updates with those of slopes replaced by `fn(update, *leaves of the trees)`."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, u, *rest: fn(u, *rest) if is_slope(keys) else u, updates, *trees
    )


def selected(params: Any, last: Any, where: Any, sites: Any) -> list[str]:
    """Returns the selected sites' paths; none within `without_selection`."""
    if not _selecting.get():
        return []
    return choose(site_paths(params), last=last, where=where, sites=sites)


def now(value: optax.ScalarOrSchedule, count: jax.Array) -> Any:
    """Returns a number, or a schedule's value at this step."""
    return value(count) if callable(value) else value


def need_params(name: str, params: Any) -> None:
    """Raises ValueError where params were not passed to a transform's update."""
    if params is None:
        raise ValueError(f"{name} needs `params`: call tx.update(grads, state, params).")


def _weighed(params: Any, last: Any, where: Any, sites: Any, weights: Any) -> dict[str, float]:
    return weigh(selected(params, last, where, sites), 1.0 if weights is None else weights)


def _init(params: Any, last: Any, where: Any, sites: Any, weights: Any) -> LinearityState:
    weighed = _weighed(params, last, where, sites, weights) if _selecting.get() else {}
    return LinearityState(
        count=jnp.zeros([], jnp.int32),
        weights=slope_tree(params, lambda site, _: jnp.float32(weighed.get(site, 0.0))),
    )


def _next(state: LinearityState) -> LinearityState:
    return state._replace(count=optax.safe_increment(state.count))
