"""Properties of an inner optimizer that the slopes depend on, read from its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from lcjax.errors import CollapseError
from lcjax.tree.slopes import masked, on_marked

_ACCUMULATORS = (optax.MultiStepsState, optax.ApplyEvery)
_DECIDERS = (*_ACCUMULATORS, optax.ApplyIfFiniteState)
_AROUND = "put it around, {}(lcjax.with_linearity_penalty(...))"
_REFUSED: dict[type, tuple[str, str, str]] = {
    optax.ScaleByLBFGSState: (
        "optax.lbfgs",
        "searches along slopes, which do not follow its updates",
        "train with a first-order optimizer, such as optax.adam",
    ),
    optax.ScaleByBacktrackingLinesearchState: (
        "a backtracking line search",
        "would evaluate the loss at slopes that are not taken",
        "use a learning rate or a schedule instead",
    ),
    optax.ScaleByZoomLinesearchState: (
        "a zoom line search",
        "would evaluate the loss at slopes that are not taken",
        "use a learning rate or a schedule instead",
    ),
    contrib.SAMState: (
        "optax.contrib.sam",
        "evaluates the loss at other slopes, and steps away and back",
        _AROUND.format("optax.contrib.sam"),
    ),
    optax.ConditionallyMaskState: (
        "optax.conditionally_mask",
        "skips steps without a record in its state that slopes could follow",
        _AROUND.format("optax.conditionally_mask"),
    ),
    optax.ScaleBySM3State: (
        "optax.sm3",
        "does not accept scalars, which slopes are",
        "use optax.adafactor or optax.adagrad",
    ),
    contrib.DifferentiallyPrivateAggregateState: (
        "optax.contrib.dpsgd",
        "takes the gradients of every example, including those of slopes",
        "put contrib.differentially_private_aggregate(...) before "
        "lcjax.with_linearity_penalty in a chain",
    ),
    optax.LookaheadState: (
        "optax.lookahead",
        "takes pairs of params",
        _AROUND.format("optax.lookahead"),
    ),
}


class Decision(NamedTuple):
    """How an inner optimizer used a gradient; bool scalars.

    Attributes:
      counted: whether it used the gradient, and did not skip it.
      moved: whether it moved the weights by this gradient and the accumulated ones.
      restarted: whether accumulation starts again after it.
    """

    counted: Any
    moved: Any
    restarted: Any


def check_inner(state: Any) -> None:
    """Raises CollapseError if an inner optimizer cannot be wrapped; names it."""
    for node in _found(state, tuple(_REFUSED)):
        for kind, (name, reason, remedy) in _REFUSED.items():
            if isinstance(node, kind):
                raise CollapseError(
                    f"inner: got {name}, which {reason}; expected an optimizer that needs only "
                    f"gradients and params. Instead, {remedy}."
                )


def accumulates(state: Any) -> bool:
    """Returns whether an optimizer accumulates several gradients for one step of the weights."""
    return bool(_found(state, _ACCUMULATORS))


def decision(old: Any, new: Any, slopes: Any) -> Decision | None:
    """Returns how an inner optimizer used a gradient; None if it applies every gradient.

    `MultiSteps`, `apply_every` and `apply_if_finite` are recognised anywhere in a chain or in
    another wrapper.

    Args:
      old: its state before the update.
      new: its state after it.
      slopes: marks of the slopes.
    """
    pairs = zip(_found(old, _DECIDERS), _found(new, _DECIDERS), strict=True)
    each = [_decided(*pair, slopes) for pair in pairs]
    each = [one for one in each if one is not None]
    if not each:
        return None
    return Decision(*(jnp.stack(field).all() for field in zip(*each, strict=True)))


def _decided(old: Any, new: Any, slopes: Any) -> Decision | None:
    yes = jnp.array(True)
    if isinstance(new, optax.ApplyEvery):
        if not _covers(new.grad_acc, slopes):
            return None
        emits = new.count == 0
        return Decision(yes, emits, emits)
    if isinstance(new, optax.MultiStepsState):
        if not _covers(new.acc_grads, slopes):
            return None
        inner = decision(old.inner_opt_state, new.inner_opt_state, slopes)
        inner = Decision(yes, yes, yes) if inner is None else inner
        steps = new.gradient_step != old.gradient_step
        return Decision(
            counted=steps | (new.mini_step != old.mini_step),
            moved=steps & inner.counted & inner.moved,
            restarted=steps & (inner.restarted | ~inner.counted),
        )
    inner = decision(old.inner_state, new.inner_state, slopes)
    inner = Decision(yes, yes, yes) if inner is None else inner
    return Decision(*(new.last_finite & field for field in inner))


def with_true_slopes(state: Any, marks: Any, slopes: Any) -> Any:
    """Returns an inner state with these slopes in the copies of params that it averages."""

    def keeps(node: Any) -> bool:
        return isinstance(node, contrib.ScheduleFreeState)

    def put(node: Any) -> Any:
        if not keeps(node):
            return node
        z = on_marked(lambda z, _, s: jnp.array(s, z.dtype), node.z, marks, slopes)
        return node._replace(z=z)

    return jax.tree.map(put, state, is_leaf=keeps)


def seeing_slopes(extra: dict[str, Any], marks: Any, params: Any) -> dict[str, Any]:
    """Returns extra arguments whose loss functions run with the slopes of the params."""

    def seeing(fn: Callable[..., Any]) -> Callable[..., Any]:
        def with_slopes(shown: Any, *args: Any, **kwargs: Any) -> Any:
            return fn(on_marked(lambda _, __, s: s, shown, marks, params), *args, **kwargs)

        return with_slopes

    names = ("obj_fn", "value_fn", "grad_fn")
    found = {name: extra[name] for name in names if callable(extra.get(name))}
    return extra | {name: seeing(fn) for name, fn in found.items()}


def _found(state: Any, kinds: tuple[type, ...]) -> list[Any]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [node for node in nodes if isinstance(node, kinds)]


def _covers(tree: Any, marks: Any) -> bool:
    """Returns whether a tree like the params, partly masked, has any of the slopes."""

    def both(leaf: Any, mark: Any) -> bool:
        return not (masked(leaf) or masked(mark))

    return any(jax.tree.leaves(jax.tree.map(both, tree, marks, is_leaf=masked)))
