"""Going on with training after a collapse: the optimizer state of what stayed."""

from typing import Any

import jax
import optax

from lcjax.annealing import AnnealState
from lcjax.arguments import check_optimizer
from lcjax.optimizer import CollapsingState
from lcjax.paths import in_params, leaf_path
from lcjax.penalty import LinearityState, without_selection
from lcjax.report import CollapseReport


def carry_opt_state(
    tx: optax.GradientTransformation,
    opt_state: Any,
    old_params: Any,
    new_params: Any,
    report: CollapseReport,
) -> Any:
    """Returns the optimizer state with which training goes on after a collapse.

    What belongs to an untouched leaf (moments, momentum, penalty weight) is carried over; leaves
    that surgery made start afresh, as the report names them, since shapes cannot tell; counts stay,
    so schedules do not restart. Which sites are penalised was decided when the old state was made
    and stays decided.

    Args:
      tx: the optimizer that opt_state is of.
      opt_state: its state for old_params.
      old_params: the params that were collapsed; arrays or ShapeDtypeStructs.
      new_params: the compact params.
      report: what `collapse` returned with them.

    Raises:
      ValueError: when opt_state is not a state of tx for old_params.
    """
    check_optimizer(tx, "tx")
    with without_selection():
        expected = jax.tree.structure(jax.eval_shape(tx.init, old_params))
        fresh = tx.init(new_params)
    if jax.tree.structure(opt_state) != expected:
        raise ValueError(
            "opt_state does not have the structure of tx.init(old_params): pass the optimizer and "
            "the params that it was made with, from before the collapse."
        )
    old = _by_path(opt_state)
    params = {in_params(path): leaf for path, leaf in _by_path(new_params).items()}
    new = set(report.new)

    def carry(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        if _owner(path, params) in new or path not in old:
            return leaf
        return old[path]

    return jax.tree_util.tree_map_with_path(carry, fresh)


def reselect(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> Any:
    """Returns the optimizer state with the sites, and their weights, that another optimizer names.

    For training in stages, each with sites of its own: `tx` differs from the optimizer before it in
    which sites it moves (or in numbers), and takes over moments, momentum and counts. After a
    collapse, `carry_opt_state` comes first.

    Args:
      tx: the optimizer with which training goes on.
      opt_state: the state of the one before, for these params.
      params: what is trained.

    Raises:
      ValueError: when opt_state does not have the structure of tx.init(params), or tx names no
        site.
    """
    check_optimizer(tx, "tx")
    fresh = tx.init(params)
    if jax.tree.structure(opt_state) != jax.tree.structure(fresh):
        raise ValueError(
            "opt_state does not have the structure of tx.init(params): pass an optimizer that "
            "differs from the one before in its sites alone, and after a collapse the state that "
            "carry_opt_state returns."
        )
    return _with_selection(opt_state, fresh)


def _with_selection(old: Any, fresh: Any) -> Any:
    kinds = (AnnealState, CollapsingState, LinearityState)

    def take(old: Any, fresh: Any) -> Any:
        if isinstance(old, AnnealState):
            return old._replace(selected=fresh.selected)
        if isinstance(old, LinearityState):
            return old._replace(weights=fresh.weights)
        if isinstance(old, CollapsingState):
            return old._replace(
                inner=_with_selection(old.inner, fresh.inner),
                selected=fresh.selected,
                shrink=take(old.shrink, fresh.shrink),
            )
        return old

    return jax.tree.map(take, old, fresh, is_leaf=lambda node: isinstance(node, kinds))


def _by_path(tree: Any) -> dict[str, Any]:
    return {leaf_path(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _owner(path: str, params: dict[str, Any]) -> str | None:
    """Returns the param that a state's leaf belongs to: the longest one that its path ends in."""
    names = path.split("/")
    ends = ("/".join(names[start:]) for start in range(len(names)))
    return next((end for end in ends if end in params), None)
