"""Going on with training after a collapse: the optimizer state of what stayed."""

from typing import Any

import jax
import optax

from lcjax.paths import in_params, leaf_path
from lcjax.penalty import without_selection
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


def _by_path(tree: Any) -> dict[str, Any]:
    return {leaf_path(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _owner(path: str, params: dict[str, Any]) -> str | None:
    """Returns the param that a state's leaf belongs to: the longest one that its path ends in."""
    names = path.split("/")
    ends = ("/".join(names[start:]) for start in range(len(names)))
    return next((end for end in ends if end in params), None)
