"""A JAX function, unchanged, that runs with the tree of a collapsible model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.transform.call import run_call
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.params.tree import FunctionParams, is_function_tree, read_params
from lcjax.transform.traced_call import TracedCall


class CollapsibleFunction:
    """A function whose activations have slopes and whose pairs may be fused.

    `lcjax.collapsible` makes it. Its first argument is the tree that `init` returns; `init` makes
    one of the function's own params, and `trace` finds the sites of one call, which
    `lcjax.TracedCall` calibrates, plans and collapses.

    Args:
      fn: the function.
      has_state: whether its first argument holds state besides params.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
      >>> params, x = {"up": jnp.ones((4, 16)), "down": jnp.ones((16, 4))}, jnp.ones((2, 4))
      >>> tree = f.init(params, x)
      >>> f.trace(tree, x).sites.paths, f(tree, x).shape
      (('up',), (2, 4))
    """

    def __init__(self, fn: Callable[..., Any], has_state: bool = False):
        self._fn = fn
        self._has_state = has_state

    def __repr__(self) -> str:
        return f"CollapsibleFunction({getattr(self._fn, '__qualname__', repr(self._fn))})"

    def __call__(self, params: Any, /, *inputs: Any, **kwargs: Any) -> Any:
        """Returns what the function returns, with slopes in its activations and fused sites.

        Args:
          params: what `init`, `TracedCall.collapse` or a restore returned.
          *inputs: the function's other arguments. Arrays are traced; the rest (`train=False`,
            `mutable=["batch_stats"]`) is passed unchanged.
          **kwargs: those given by name.

        Returns:
          what the function returns. Running statistics of a norm that was folded in, which a call
          as in training returns, come back unchanged if they are in the state; those among the
          params are left out: dicts lose them, other containers have None.

        Raises:
          CollapseError: params of another function, or another kind of tree; a call that returns
            something else that a fused site no longer has.
        """
        return run_call(self._bind(read_params(params), inputs, kwargs))

    def init(self, params: Any, /, *inputs: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns `{"model": params, "slopes": {site: {"slope": 0.0}}, "fused": {}}`.

        Slopes are float32; those of layers stacked by `lax.scan` are vectors. Nothing is computed.

        Args:
          params: the function's own; a pytree of arrays or ShapeDtypeStructs.
          *inputs: the function's other arguments; arrays or ShapeDtypeStructs.
          **kwargs: those given by name.

        Raises:
          CollapseError: no site, with what was rejected and why; params that are not arrays.
        """
        call = self._bind(FunctionParams(params, {}, {}), inputs, kwargs)
        if not call.analysis.sites:
            raise CollapseError(
                "the function has no site: no Dense → activation → Dense, of kernels that are "
                f"leaves of params.\n{Explanation.of(call.analysis, call.params)}"
            )
        return _with_slopes(call).tree

    def trace(self, params: Any, /, *inputs: Any, **kwargs: Any) -> TracedCall:
        """Returns a call of the function, whose sites can be listed, calibrated and collapsed.

        As `jax.jit(f).trace`: arguments of the function are given here, options of lcjax to the
        methods of what is returned. Nothing is computed.

        Args:
          params: what `init`, `TracedCall.collapse` or a restore returned, or the function's own
            params, for which slopes of 0 are taken; arrays or ShapeDtypeStructs.
          *inputs: the function's other arguments, at inference; arrays or ShapeDtypeStructs.
          **kwargs: those given by name.

        Raises:
          CollapseError: params of another function; params that are not arrays.

        Example:
          >>> import jax, jax.numpy as jnp, lcjax
          >>> f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"])
          >>> params = {"up": jnp.ones((2, 4)), "down": jnp.ones((4, 2))}
          >>> f.trace(params, jnp.ones((1, 2))).sites.paths
          ('up',)
        """
        if is_function_tree(params):
            call = self._bind(read_params(params), inputs, kwargs)
        else:
            call = self._bind(FunctionParams(params, {}, {}), inputs, kwargs)
            call = call.with_params(_with_slopes(call))
        return TracedCall(self._fn, call, inputs[: int(self._has_state)], kwargs)

    def _bind(
        self, params: FunctionParams, inputs: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> BoundCall:
        return bind_call(self._fn, params, inputs, kwargs, has_state=self._has_state)


def _with_slopes(call: BoundCall) -> FunctionParams:
    """Returns the params of a call with a slope of 0 for every site."""
    leaves = jax.tree.leaves(call.params.model)
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    slopes = {}
    for site in call.analysis.sites:
        shape = jax.ShapeDtypeStruct(site.stack, jnp.float32)
        slopes[site.path] = {"slope": shape if abstract else jnp.zeros(site.stack, jnp.float32)}
    return FunctionParams(call.params.model, slopes, {})
