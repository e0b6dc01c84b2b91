"""Any JAX function as a collapsible model."""

from collections.abc import Callable
from typing import Any

from lcjax.transform.function import CollapsibleFunction
from lcjax.validation.functions import check_function


def collapsible(fn: Callable[..., Any], *, has_state: bool = False) -> CollapsibleFunction:
    """Gives any JAX function of params and inputs the life cycle of a collapsible model.

    Its jaxpr is searched for `Dense → activation → Dense`, the kernels being leaves of the params:
    products and 1×1 convolutions, whatever the axes, under jit, remat and `lax.scan`; biases,
    inference norms and dropout may stand between; gated units count. Each such site gets a slope
    α, `a(z) = α z + (1 − α) σ(z)`, and can be fused once it is linear. The function's code stays
    what it is, and one that is not elementwise, tied, or used twice is left alone.

    The result is called like the function, with the tree that its `init` returns in the place of
    the params. The compact tree needs the function alone to run again: in another process,
    `collapsible(fn)(restored, x)`.

    Every call is traced anew, so that it sees what the function reads from outside (an attribute, a
    global) as it is then. That takes about as long as the function itself takes uncompiled: where
    time counts, call `jax.jit(f)`. What a function compiled by `jax.jit` read, this one or one that
    it calls, stays as it was when it was compiled.

    What a norm folds in has to be in the params or, its statistics, in the state: with `has_state`
    the function's second argument is state, which is given to every method after the params, folds
    in as params do, and is no part of the tree that is trained, decayed and saved. After a
    collapse a call as in training returns the statistics of a norm that was folded in as they were.

    At frozen slopes of 0 (closed over, or left out of the tree) the program is the function's own.
    What no site needs, whole models with `while` loops or kernels of their own included, is left as
    it is.

    Args:
      fn: `fn(params, *args, **kwargs)`; params a pytree of arrays. Flax linen `module.apply`; for
        NNX `lambda params, rest, x: nnx.merge(graphdef, params, rest)(x)` of `nnx.split(model,
        nnx.Param, ...)`; `lambda params, x: eqx.combine(params, static)(x)` of
        `eqx.partition(model, eqx.is_array)`; Haiku's `apply`; a plain function. It may not return
        its kernels.
      has_state: whether it is `fn(params, state, *args, **kwargs)`; state a pytree of what is not
        trained: linen `lambda params, state, x, train: model.apply({"params": params, **state}, x,
        train, mutable=["batch_stats"])`, Haiku's `apply`, an `nnx.State` of `nnx.BatchStat`, Keras'
        non-trainable variables.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> f = collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
      >>> params = f.init({"up": jnp.ones((2, 4)), "down": jnp.ones((4, 2))}, jnp.ones((1, 2)))
      >>> compact, report = f.collapse(params, jnp.ones((1, 2)), threshold=1.0)
      >>> compact["fused"]["up|hidden=4||down:4x2,up:2x4"]["kernel"].shape
      (2, 2)
    """
    check_function(fn, "fn")
    return CollapsibleFunction(fn, has_state)
