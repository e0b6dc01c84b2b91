"""A traced call of a module, whose collapses give modules back."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from lcjax.nnx.arguments import check_call, model_and_method
from lcjax.nnx.calls.binding import bound
from lcjax.nnx.calls.owners import find_owners
from lcjax.nnx.calls.recording import MethodCall
from lcjax.nnx.delivery import deliver
from lcjax.nnx.undelivered import not_run, params_of_model, take_apart
from lcjax.structure.choice import SiteSelector
from lcjax.transform.converted_call import ConvertedCall
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.params.tree import FunctionParams, read_params
from lcjax.transform.traced_call import TracedCall
from lcjax.tree.selection import choose, site_names


class _Call(TracedCall):
    """The call as one of a function, of which plans compare what the module returns."""

    def run(self, variables: Any, *inputs: Any) -> Any:
        return super().run(variables, *inputs)[0]

    @property
    def call(self) -> BoundCall:
        return self._call


class ModuleCall(ConvertedCall[Any]):
    """One call of an NNX module; made by `lcjax.nnx.trace`.

    The methods are those of `lcjax.TracedCall`, but a collapse returns a module. Where data is
    taken, a batch is the tuple of the module's inputs, or the one array that it takes; where a
    metric is taken, it is called with modules.

    It is a snapshot: training the module later does not change it.

    Attributes:
      sites: the sites of the call, in forward order.
      call: the same call as one of a function of a tree.

    Example:
      >>> from flax import nnx
      >>> import jax, lcjax
      >>> model = nnx.Sequential(*(nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2)))
      >>> lcjax.nnx.trace(model, jax.ShapeDtypeStruct((1, 4), "float32")).sites.paths
      ()
    """

    def __init__(
        self,
        model: nnx.Module,
        call: _Call,
        calls: Sequence[MethodCall],
    ):
        """Not called by users.

        Args:
          model: the deep model.
          call: of a method as a function.
          calls: of the methods of its modules, that the call makes.
        """
        super().__init__(call, self._module)
        self._traced = call.call
        self._model, self._calls = model, tuple(calls)

    @property
    def call(self) -> TracedCall:
        """The call as one of a function of the Params, `{"model", "slopes", "fused"}`."""
        return self._call

    def add_slopes(self, sites: SiteSelector = None) -> Any:
        """Returns the module with slopes of 0 at sites, as `lcjax.nnx.add_slopes`."""
        self._with_sites()
        params = self._traced.params
        named = None if sites is None else site_names(sites)
        chosen = choose(self.sites.paths, sites=named)
        shapes = {site.path: site.stack for site in self._traced.analysis.sites}
        new = {path: {"slope": jnp.zeros(shapes[path], jnp.float32)} for path in chosen}
        tree = FunctionParams(params.model, {**new, **params.slopes}, params.fused).tree
        return self._module(tree)

    def _module(self, tree: Any) -> Any:
        """Returns the module of a tree."""
        call = self._traced.with_params(read_params(tree))
        return deliver(self._model, find_owners(self._model, call, self._calls))


def trace(model: Any, /, *inputs: Any, **kwargs: Any) -> ModuleCall:
    """Returns a call of an NNX module, whose sites can be listed, calibrated and collapsed.

    Arguments of the module are given here, options of lcjax to the methods of what is returned.
    Nothing is computed. Trace the module as it is used at inference, after `model.eval()`.

    Args:
      model: a module; a method of one, `model.encode`, which runs instead of `__call__`; or
        `functools.partial(fn, model)` for a function `fn(model, *inputs)`. It is not changed.
      *inputs: the inputs; arrays or ShapeDtypeStructs.
      **kwargs: those given by name.

    Raises:
      TypeError: something other than a module; inputs that it does not take.
      CollapseError: inputs on which it cannot run, such as arrays of the wrong shape; a compact
        module of which this call runs some collapsed sites and not others.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> call = lcjax.nnx.trace(model, jax.ShapeDtypeStruct((1, 4), "float32"))
      >>> call.sites.paths
      ('layers/0',)
    """
    module, method = model_and_method(model)
    check_call(method, module, inputs, kwargs)
    deep, added = take_apart(module)
    function, call, calls = bound(deep, method, inputs, kwargs)
    idle = not_run(call, added)
    if idle:
        deep, added = take_apart(module, idle)
        function, call, calls = bound(deep, method, inputs, kwargs)
    if added:
        call = call.with_params(params_of_model(call, added))
    traced = _Call(function.fn, call, (function.states,), kwargs)
    return ModuleCall(deep, traced, calls)
