"""Going on with training after a collapse: the optimizer state of what stayed."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcjax.optim.anneal import AnnealState
from lcjax.optim.penalty import LinearityState
from lcjax.optim.seeding import origins, seeded
from lcjax.optim.wrapper import CollapsingState
from lcjax.surgery.report import CollapseReport
from lcjax.tree.paths import in_params, leaf_path
from lcjax.tree.slopes import without_selection
from lcjax.validation.arguments import check_optimizer

# Set in optimistic gradient descent's first step, which needs no earlier gradient.
_FIRST_STEP = "is_initial_step"


def carry_opt_state(
    tx: optax.GradientTransformation,
    opt_state: Any,
    old_params: Any,
    new_params: Any,
    report: CollapseReport,
) -> Any:
    """Returns the optimizer state with which training goes on after a collapse.

    What belongs to an untouched leaf (moments, momentum, penalty weight) is carried over; counts
    stay, so schedules do not restart. Leaves that surgery made, as the report names them, since
    shapes cannot tell, start with first moments of 0 and second moments at the level of the leaves
    they were made of, so that updates grow to their settled size and not past it. The states of
    `optax.lbfgs` and `optax.contrib.galore` start afresh. Which sites are penalized was decided
    when the old state was made and stays decided.

    Args:
      tx: the optimizer that opt_state is of.
      opt_state: its state for old_params.
      old_params: the params that were collapsed; arrays or ShapeDtypeStructs.
      new_params: the compact params.
      report: what `collapse` returned with them.

    Raises:
      ValueError: when opt_state is not a state of tx for old_params, or has the params' states
        in one vector (`optax.flatten`).
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
    before = {in_params(path): leaf for path, leaf in _by_path(old_params).items()}
    new = set(report.new_leaves)
    gone = [*report.removed_leaves, *report.new_leaves]
    sources = {path: origins(path, params[path], before, gone) for path in new & params.keys()}
    beliefs = tuple(path + "/" for path in _places(opt_state, optax.ScaleByBeliefState))

    def carry(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        owner = _owner(path, params)
        if owner in new:
            return seeded(leaf, owner, path, sources[owner], old, path.startswith(beliefs))
        if path not in old or path.endswith(_FIRST_STEP):
            return leaf
        if owner is None and jnp.shape(leaf) != jnp.shape(old[path]):
            raise ValueError(
                f"opt_state: {path} got shape {jnp.shape(old[path])}, expected "
                f"{jnp.shape(leaf)}: it has the states of all params in one array, as "
                "optax.flatten makes it, and cannot be carried over. Use the optimizer without "
                "optax.flatten, or go on with tx.init(new_params)."
            )
        return old[path]

    carried = jax.tree_util.tree_map_with_path(carry, fresh)
    return _with_numerators(_with_fresh_memory(carried, fresh), opt_state)


def update_site_selection(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> Any:
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


def _with_fresh_memory(carried: Any, fresh: Any) -> Any:
    """Returns a state that has those of L-BFGS and GaLore, each as a whole, from another.

    What L-BFGS remembers mixes all params; GaLore gets the projector of a param, without which it
    stays where it is, on the first step and then every so many.
    """

    def memory(node: Any) -> bool:
        return isinstance(node, (optax.ScaleByLBFGSState, optax.contrib.GaLoreState))

    return jax.tree.map(
        lambda node, new: new if memory(node) else node, carried, fresh, is_leaf=memory
    )


def _with_numerators(carried: Any, old: Any) -> Any:
    """Returns a state whose learning rate estimates, of Prodigy and D-Adaptation, do not jump.

    The estimate is a numerator over the size of all summed gradients, of which some are no more.
    """

    def estimates(node: Any) -> bool:
        kinds = (optax.contrib.ProdigyState, optax.contrib.DAdaptAdamWState)
        return isinstance(node, kinds)

    def size(sums: Any) -> jax.Array:
        return jnp.asarray(
            optax.tree.sum(jax.tree.map(lambda x: jnp.abs(x).sum(dtype=jnp.float32), sums))
        )

    nodes = jax.tree.leaves(old, is_leaf=estimates)
    earlier = iter([node for node in nodes if estimates(node)])

    def put(node: Any) -> Any:
        if not estimates(node):
            return node
        whole = size(next(earlier).grad_sum)
        part = jnp.where(whole > 0, size(node.grad_sum) / whole, 1)
        numerator = node.numerator_weighted
        return node._replace(numerator_weighted=(numerator * part).astype(numerator.dtype))

    return jax.tree.map(put, carried, is_leaf=estimates)


def _places(tree: Any, kind: type) -> list[str]:
    nodes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda n: isinstance(n, kind))[0]
    return [leaf_path(keys) for keys, node in nodes if isinstance(node, kind)]


def _by_path(tree: Any) -> dict[str, Any]:
    return {leaf_path(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _owner(path: str, params: dict[str, Any]) -> str | None:
    """Returns the param that a state's leaf belongs to: the longest one that its path ends in."""
    names = path.split("/")
    ends = ("/".join(names[start:]) for start in range(len(names)))
    return next((end for end in ends if end in params), None)
