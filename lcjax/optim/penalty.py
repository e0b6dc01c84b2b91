"""The linearity penalty as a loss term and as optax transforms.

Slopes are found by key path, in any tree with leaves named `slope`. `init` decides which leaves are
slopes, the selection and the weights, and stores them in the optimizer state: sites that remain
after a collapse keep their weight.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcjax.errors import CollapseError
from lcjax.optim.param_states import selects_sites
from lcjax.optim.proximal_step import LinearityState, counted, shrink, wide
from lcjax.optim.selection import weights_by_site
from lcjax.optim.strength import (
    Penalty,
    check_penalty,
    check_positive,
    value_at_step,
    warn_if_unreachable,
)
from lcjax.tree.paths import leaf_path, site_of
from lcjax.tree.selection import Selected, SiteSelection, Weights, as_selection
from lcjax.tree.slopes import narrow, on_marked, only_marked, owned_slopes, slopes_like
from lcjax.tree.units import units_by_path, units_like
from lcjax.validation.arguments import check_state, check_tree, require_params


def linearity_penalty(
    variables: Any,
    *,
    penalty: Penalty = "l2",
    sites: Selected = None,
    weights: Weights | None = None,
) -> jax.Array:
    """Returns `Σ_s w_s (1 − α_s)²` (l2, the paper's term) or `Σ_s w_s |1 − α_s|` (l1).

    Multiply it by a strength λ and add it to the loss. Under Adam the strength of such a term has
    little effect, since the gradient is rescaled: use `with_linearity_penalty`. A stacked site
    counts every layer. A site with a slope for each unit counts their mean, so that its price is
    that of a site with one slope.

    Args:
      variables: any tree with leaves named `slope`.
      penalty: "l2" or "l1".
      sites: paths, globs or `re.Pattern`s of the sites, or a `SiteSelection`; None
        for all.
      weights: one number, one for each selected site in forward order, or a mapping of globs to
        numbers; None gives every site weight 1.

    Returns:
      a float32 scalar.

    Raises:
      ValueError: on a wrong penalty, selection or number of weights.

    Example:
      >>> import jax.numpy as jnp, lcjax
      >>> float(lcjax.linearity_penalty({"act_0": {"slope": jnp.array(0.5)}}))
      0.25

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_tree(variables, "linearity_penalty", nested=False)
    check_penalty(penalty)
    selection = as_selection(sites)
    owned = owned_slopes(variables, selection)
    weight_of = weights_by_site(variables, selection, weights)
    units, total = units_by_path(variables), jnp.zeros((), jnp.float32)
    for keys, slope in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if leaf_path(keys) in owned and site_of(keys) in weight_of:
            gap = 1 - jnp.asarray(slope, jnp.float32)
            distance = gap**2 if penalty == "l2" else jnp.abs(gap)
            total += weight_of[site_of(keys)] / units[leaf_path(keys)] * distance.sum()
    return total


def add_linearity_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    sites: Selected = None,
    weights: Weights | None = None,
) -> optax.GradientTransformation:
    """Adds `2 λ w (α − 1)`, the gradient of `λ Σ w (1 − α)²`, to the update of selected slopes.

    In a chain it goes after the rescaling (`optax.scale_by_adam`) and before the learning rate:
    the paper's decoupled form. Before the rescaling Adam normalises the strength away; after the
    learning rate, where updates have been negated, it would push slopes away from 1. With a
    learning rate η the gap shrinks by `1 − 2 η λ w` a step, which overshoots above `η λ w = ½`;
    `with_linearity_penalty(penalty="l2")` takes the implicit step, which never overshoots. Of a
    site with a slope for each of n units, each has the weight w / n.

    Args:
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      sites: paths, globs or `re.Pattern`s of the sites, or a `SiteSelection`; None
        for all.
      weights: one number, one for each selected site in forward order, or a mapping of globs to
        numbers; None gives every site weight 1.

    Returns:
      an optax transformation, for `optax.chain`.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection, and on slopes
        narrower than float32.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> tx = lcjax.add_linearity_penalty(0.5)
      >>> params = {"act_0": {"slope": jnp.array(0.75)}}
      >>> updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
      >>> float(updates["act_0"]["slope"])
      -0.25

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """
    check_positive("strength", strength)
    selection = as_selection(sites)

    def init(params):
        slopes_like(params, _check_wide, selection)
        return _init(params, selection, weights)

    def update(updates, state, params=None):
        require_params("add_linearity_penalty", params)
        check_state("add_linearity_penalty", state.weights, params)
        lam = value_at_step(strength, state.count)

        def pull(u, w, p):
            return u + (2 * lam * w * (p - 1)).astype(u.dtype)

        return on_marked(pull, updates, state.weights, params), counted(state)

    return optax.GradientTransformation(init, update)


def proximal_linearity_penalty(
    slope_learning_rate: optax.ScalarOrSchedule,
    strength: optax.ScalarOrSchedule,
    *,
    penalty: Penalty = "l1",
    sites: Selected = None,
    weights: Weights | None = None,
    steps: int | None = None,
) -> optax.GradientTransformation:
    """Takes the proximal step of the penalty after a slope's own update; the last of a chain.

    With u the update that comes in, η the slope learning rate and `soft` the soft threshold:
    `α ← 1 − soft(1 − (α + u), η λ w)` for l1, `α ← 1 − (1 − (α + u)) / (1 + 2 η λ w)` for l2.
    For l1 with `u = −η ∂L/∂α` a slope rests at exactly 1 where `|∂L/∂α| ≤ λ w`: a site becomes
    linear where that costs less than λ of loss. The transform must see the final update: anything
    after it in the chain moves slopes off 1. If slopes are narrower than float32, its state has
    float32 copies of them. Of a site with a slope for each of n units, each has the weight w / n.

    Args:
      slope_learning_rate: η > 0, or a schedule of it.
      strength: λ ≥ 0, in units of the loss, or a schedule of it.
      penalty: "l1" or "l2".
      sites: paths, globs or `re.Pattern`s of the sites, or a `SiteSelection`; None
        for all.
      weights: one number, one for each selected site in forward order, or a mapping of globs to
        numbers; None gives every site weight 1.
      steps: number of planned steps; `init` warns if they cannot bring a slope to 1.

    Returns:
      an optax transformation, for `optax.chain`.

    Raises:
      ValueError: from `update` without params; from `init` on a wrong selection.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> tx = lcjax.proximal_linearity_penalty(slope_learning_rate=0.1, strength=2.0)
      >>> params = {"act_0": {"slope": jnp.array(0.75)}}
      >>> updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
      >>> round(float(updates["act_0"]["slope"]), 4)
      0.2

    References:
      Parikh and Boyd 2014, Proximal Algorithms, sections 4.2 and 6.5.2.
    """
    check_penalty(penalty)
    check_positive("strength", strength)
    check_positive("slope_learning_rate", slope_learning_rate)
    selection = as_selection(sites)

    def init(params):
        state = _init(params, selection, weights)
        if any(narrow(slope) for slope in jax.tree.leaves(_slopes(params, state.weights))):
            copies = only_marked(lambda w, p: wide(p).copy(), state.weights, params)
            state = state._replace(slopes=copies)
        if steps is not None and selects_sites(params):
            warn_if_unreachable(
                params, state.weights, slope_learning_rate, strength, penalty, steps
            )
        return state

    def update(updates, state, params=None):
        require_params("proximal_linearity_penalty", params)
        check_state("proximal_linearity_penalty", state.weights, params)
        reach = value_at_step(slope_learning_rate, state.count) * value_at_step(
            strength, state.count
        )
        return shrink(penalty, reach, updates, state, params)

    return optax.GradientTransformation(init, update)


def _init(params: Any, selection: SiteSelection, weights: Weights | None) -> LinearityState:
    weight_of = weights_by_site(params, selection, weights) if selects_sites(params) else {}

    def weight(site: str, _: Any) -> jax.Array:
        return jnp.asarray(weight_of.get(site, 0.0), jnp.float32)

    marks = slopes_like(params, weight, selection)
    marks = only_marked(lambda w, n: w if n == 1 else w / n, marks, units_like(params))
    return LinearityState(count=jnp.zeros([], jnp.int32), weights=marks)


def _slopes(params: Any, marks: Any) -> Any:
    return only_marked(lambda _, p: p, marks, params)


def _check_wide(site: str, slope: Any) -> None:
    if narrow(slope):
        raise CollapseError(
            f"{site or '(root)'}: got a slope in {jnp.result_type(slope)}, expected float32: steps "
            "below its spacing near 1 would be lost. Cast slopes to float32, or use "
            "lcjax.with_linearity_penalty, which keeps a float32 copy."
        )
