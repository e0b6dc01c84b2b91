"""Any JAX function as a collapsible model."""

from collections.abc import Callable
from typing import Any

from lcjax.transform.function import CollapsibleFunction
from lcjax.validation.functions import check_function


def collapsible(fn: Callable[..., Any], *, has_state: bool = False) -> CollapsibleFunction:
    """Gives any JAX function of params and inputs the life cycle of a collapsible model.

    Its jaxpr is searched for `Dense → activation → Dense`, the kernels being leaves of the params:
    products and 1×1 convolutions, for any order of axes, under jit, remat, `lax.scan`, `lax.cond`
    and `lax.while_loop`; biases, inference norms and dropout may be between; gated units count,
    with gate and value in one kernel too. Each such site gets a slope α,
    `a(z) = α z + (1 − α) σ(z)`, and can be fused once it is linear; one whose kernels are stacked
    by expert gets a slope, and a fit to the tokens routed to it, for each expert. The function's
    code does not change. Activations that are not elementwise and kernels that are tied or used
    twice are not sites; `f.trace(...).explain()` gives the reasons.

    With `lcjax.Units` the function's own activation runs on the hidden units that stay.

    The result is called like the function, with the tree that its `init` returns in the place of
    the params. `f.trace(params, *inputs)` gives a `TracedCall`, which lists, calibrates, plans and
    collapses sites. A compact tree needs only the function to run: in another process,
    `collapsible(fn)(restored, x)`.

    Every call is traced, so that it reads values from outside (an attribute, a global) again.
    That takes about as long as an uncompiled call of the function: for speed, call `jax.jit(f)`.
    Values that a function compiled by `jax.jit` has read, this one or one that it calls, stay those
    of its compilation.

    A norm that is folded in needs its statistics in the params or in the state: with `has_state`
    the second argument of the function is state, which folds in as params do but is not a part of
    the tree that is trained, decayed and saved. After a collapse a call as in training returns the
    statistics of a norm that was folded in unchanged.

    With slopes fixed at 0 (closed over, or left out of the tree) the program is the function's own.
    Code that belongs to no site, such as attention or custom kernels, runs unchanged.

    Args:
      fn: `fn(params, *inputs, **kwargs)`; params a pytree of arrays. Flax linen `module.apply`; for
        NNX `lambda params, rest, x: nnx.merge(graphdef, params, rest)(x)` of `nnx.split(model,
        nnx.Param, ...)`; `lambda params, x: eqx.combine(params, static)(x)` of
        `eqx.partition(model, eqx.is_array)`; Haiku's `apply`; a plain function. It may not return
        its kernels.
      has_state: whether it is `fn(params, state, *inputs, **kwargs)`; state a pytree that is not
        trained: linen `lambda params, state, x, train: model.apply({"params": params, **state}, x,
        train, mutable=["batch_stats"])`, Haiku's `apply`, an `nnx.State` of `nnx.BatchStat`, Keras'
        non-trainable variables.

    Returns:
      the function with slopes, called like it with the tree that `init` makes.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
      >>> x, params = jnp.ones((1, 2)), {"up": jnp.ones((2, 4)), "down": jnp.ones((4, 2))}
      >>> compact, report = f.trace(params, x).collapse(fit=lcjax.Exact(max_gap=1))
      >>> (key,) = compact["fused"]
      >>> key
      'up {"form": ["linear"], "hidden": [4], "removed": {"down": [4, 2], "up": [2, 4]}}'
      >>> compact["fused"][key]["kernel"].shape, lcjax.FusedKey.parse(key).widths
      ((2, 2), (4,))
    """
    check_function(fn, "fn")
    return CollapsibleFunction(fn, has_state)
