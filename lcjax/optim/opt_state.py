"""Optimizer states for training that continues after a collapse or with other sites."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcjax.optim.anneal import AnnealState
from lcjax.optim.kept_units import taken_leaves
from lcjax.optim.param_states import init_marked, param_paths, unmarked
from lcjax.optim.proximal_step import LinearityState
from lcjax.optim.seeding import origins, seeded
from lcjax.optim.taken import taken_state
from lcjax.optim.wrapper import WithLinearityPenaltyState
from lcjax.surgery.report import CollapseReport
from lcjax.tree.paths import in_params, leaf_path, leaves_by_path
from lcjax.validation.arguments import check_optimizer

# Set in the first step of optimistic gradient descent, which uses no earlier gradient.
_FIRST_STEP = "is_initial_step"


def carry_opt_state(
    tx: optax.GradientTransformation,
    opt_state: Any,
    old_params: Any,
    new_params: Any,
    report: CollapseReport,
) -> Any:
    """Returns the optimizer state for training that continues after a collapse.

    The state of an unchanged leaf (moments, momentum, penalty weight) is carried over; counts
    are kept, so schedules do not restart. Leaves that surgery made, which the report names, start
    with first moments of 0 and second moments at the level of the leaves that they were made of,
    so that updates grow to their stationary size and not beyond it. Where an MLP is narrowed, the
    hidden units that stay keep their states in both layers, and a bias that moves from the last
    Dense to the bypass takes its state with it; under `jax.jit` those of functions start anew. The
    states of `optax.lbfgs` and `optax.contrib.galore` are initialised again. The penalized sites
    were selected when the old state was made; the selection is kept.

    Args:
      tx: the optimizer of opt_state.
      opt_state: its state for old_params.
      old_params: the params that were collapsed; arrays or ShapeDtypeStructs.
      new_params: the compact params.
      report: the report that `collapse` returned with them.

    Raises:
      ValueError: if opt_state is not a state of tx for old_params, or has the states of all
        params in one vector (`optax.flatten`).

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, optax, lcjax
      >>> model = lcjax.CollapsibleMLP((8, 4), nn.relu)
      >>> params = lcjax.map_slopes(jnp.ones_like, model.init(jax.random.key(0), jnp.ones((1, 4))))
      >>> tx = optax.adam(1e-3)
      >>> compact, report = lcjax.collapse(params)
      >>> state = lcjax.carry_opt_state(tx, tx.init(params), params, compact, report)
      >>> jax.tree.map(jnp.shape, state[0].mu)
      {'params': {'dense_1': {'bias': (4,), 'kernel': (4, 4)}}}
    """
    check_optimizer(tx, "tx")
    shapes = jax.eval_shape(lambda params: init_marked(tx, params), old_params)
    if jax.tree.structure(opt_state) != jax.tree.structure(unmarked(shapes)):
        raise ValueError(
            "opt_state does not have the structure of tx.init(old_params): pass the optimizer and "
            "the params that it was made with, from before the collapse."
        )
    fresh = init_marked(tx, new_params)
    owners = param_paths(fresh)
    old = leaves_by_path(opt_state)
    params = {in_params(path): leaf for path, leaf in leaves_by_path(new_params).items()}
    before = {in_params(path): leaf for path, leaf in leaves_by_path(old_params).items()}
    new = set(report.new_leaves)
    gone = [*report.removed_leaves, *report.new_leaves]
    sources = {path: origins(path, params[path], before, gone) for path in new & params.keys()}
    written = {path: params[path] for path in sources}
    taken = taken_leaves(old_params, report.removed_leaves, report.units, written)
    nodes = leaves_by_path(opt_state, is_leaf=_is_belief)
    beliefs = tuple(f"{path}/" for path, node in nodes.items() if _is_belief(node))

    def carry(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        owner = owners.get(path)
        if owner in taken:
            state = taken_state(leaf, owner, path, taken[owner], old)
            if state is not None:
                return state
        if owner in new:
            return seeded(leaf, owner, path, sources[owner], old, path.startswith(beliefs))
        if path not in old or path.endswith(_FIRST_STEP):
            return leaf
        if owner is None and jnp.shape(leaf) != jnp.shape(old[path]):
            raise ValueError(
                f"opt_state: {path} got shape {jnp.shape(old[path])}, expected "
                f"{jnp.shape(leaf)}: it has the states of all params in one array, as "
                "optax.flatten makes it, and cannot be carried over. Use the optimizer without "
                "optax.flatten, or continue with tx.init(new_params)."
            )
        return old[path]

    fresh = unmarked(fresh)
    carried = jax.tree_util.tree_map_with_path(carry, fresh)
    return _with_numerators(_with_fresh_memory(carried, fresh), opt_state)


def update_site_selection(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> Any:
    """Returns the optimizer state with the sites and weights that another optimizer selects.

    For training in stages with different sites: `tx` differs from the previous optimizer in the
    sites that it moves (or in numbers), and takes over moments, momentum and counts. After a
    collapse call `carry_opt_state` first.

    Args:
      tx: the optimizer of the next stage.
      opt_state: the state of the previous optimizer for these params.
      params: the params that are trained.

    Raises:
      ValueError: if opt_state does not have the structure of tx.init(params), or tx selects no
        site.

    Example:
      >>> import jax.numpy as jnp, optax, lcjax
      >>> params = {f"act_{i}": {"slope": jnp.zeros(())} for i in range(2)}
      >>> one = optax.constant_schedule(1.0)
      >>> first, second = (lcjax.anneal_slopes(one, sites=name) for name in ("act_1", "act_0"))
      >>> state = lcjax.update_site_selection(second, first.init(params), params)
      >>> bool(state.selected["act_0"]["slope"])
      True
    """
    check_optimizer(tx, "tx")
    fresh = tx.init(params)
    if jax.tree.structure(opt_state) != jax.tree.structure(fresh):
        raise ValueError(
            "opt_state does not have the structure of tx.init(params): pass an optimizer that "
            "differs from the previous one in its sites only, and after a collapse the state that "
            "carry_opt_state returns."
        )
    return _with_selection(opt_state, fresh)


def _with_selection(old: Any, fresh: Any) -> Any:
    kinds = (AnnealState, WithLinearityPenaltyState, LinearityState)

    def take(old: Any, fresh: Any) -> Any:
        if isinstance(old, AnnealState):
            return old._replace(selected=fresh.selected)
        if isinstance(old, LinearityState):
            return old._replace(weights=fresh.weights)
        if isinstance(old, WithLinearityPenaltyState):
            return old._replace(
                inner=_with_selection(old.inner, fresh.inner),
                selected=fresh.selected,
                shrink=take(old.shrink, fresh.shrink),
            )
        return old

    return jax.tree.map(take, old, fresh, is_leaf=lambda node: isinstance(node, kinds))


def _with_fresh_memory(carried: Any, fresh: Any) -> Any:
    """Returns a state with the states of L-BFGS and GaLore taken whole from a fresh one.

    The memory of L-BFGS mixes all params. GaLore computes the projector of a param, without which
    the param does not move, on the first step and then at a fixed interval.
    """

    def memory(node: Any) -> bool:
        return isinstance(node, (optax.ScaleByLBFGSState, optax.contrib.GaLoreState))

    return jax.tree.map(
        lambda node, new: new if memory(node) else node, carried, fresh, is_leaf=memory
    )


def _with_numerators(carried: Any, old: Any) -> Any:
    """Returns a state whose learning rate estimates (Prodigy, D-Adaptation) do not jump.

    The estimate is a numerator over the size of all summed gradients, some of which were removed.
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


def _is_belief(node: Any) -> bool:
    return isinstance(node, optax.ScaleByBeliefState)
