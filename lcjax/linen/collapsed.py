"""A linen module that runs compact params through a model that cannot be edited."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
from flax.core.scope import CollectionFilter, DenyList, in_filter, is_filter_empty

from lcjax._messages import describe
from lcjax.errors import CollapseError
from lcjax.linen.calls import (
    Variables,
    as_function,
    given,
    joined,
    run_tree,
    split,
    trace,
    without_params,
)
from lcjax.transform.converted_call import ConvertedCall
from lcjax.transform.params.tree import is_function_tree
from lcjax.validation.functions import explained

_INTERMEDIATES = DenyList("intermediates")


class Collapsed(nn.Module):
    """A Flax linen model, unchanged, as a module that runs slopes and compact params.

    It has the `init` and `apply` of the model, with their arguments, and every other attribute:
    samplers, trainers and `TrainState.create(apply_fn=module.apply, ...)` take it in the place of
    the model. The model's code does not change: `lcjax.collapsible` finds its sites.

    `init` returns `{"params": {"model": ..., "slopes": ..., "fused": ...}, **state}`: the model's
    variables with a slope of 0 for every site among the params, where
    `lcjax.with_linearity_penalty` finds it. `apply` runs these, compact ones, and the model's own
    params. Collections such as `batch_stats` and `cache` are those of the model. `trace` lists and
    collapses sites.

    As a submodule, `Collapsed(Encoder())` has its tree at its place in the parent's params. Slopes
    are then at `<name>/slopes/...`; to collapse them, trace `Collapsed(Encoder())` with the
    submodule's variables.

    A call is traced anew each time, unless it is in a function that `jax.jit` has compiled.

    Attributes:
      model: the linen model.

    Raises:
      CollapseError: from `init`, a model without sites; from `apply`, params of another model, as
        one with more layers, or an output that a collapsed site no longer has, such as its
        activation among captured intermediates; from both, a model that is a `Collapsed`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.linen.Collapsed(nn.Sequential([nn.Dense(8), nn.gelu, nn.Dense(4)]))
      >>> x = jax.random.normal(jax.random.key(0), (16, 4))
      >>> call = model.trace(model.init(jax.random.key(1), x), x)
      >>> compact, report = call.collapse(calibration=call.calibrate([x]))
      >>> model.apply(compact, x).shape, report.collapsed
      ((16, 4), ('layers_0',))
    """

    model: nn.Module

    @nn.nowrap
    def trace(
        self,
        variables: Variables,
        *inputs: Any,
        rngs: Any = None,
        method: Any = None,
        mutable: CollectionFilter = False,
        **kwargs: Any,
    ) -> ConvertedCall[dict[str, Any]]:
        """Returns a call of the model, whose sites can be listed, calibrated and collapsed.

        What its methods return in the place of a tree are variables for `apply`. It keeps the state
        that it is given. A batch of data is the tuple of the inputs.

        Args:
          variables: what `init` or a collapse returned, or the model's own variables, for which
            slopes of 0 are taken; arrays or ShapeDtypeStructs.
          *inputs: the inputs, at inference; arrays or ShapeDtypeStructs.
          rngs: as for `apply`.
          method: as for `apply`.
          mutable: as for `apply`.
          **kwargs: the inputs given by name.

        Raises:
          CollapseError: as `lcjax.CollapsibleFunction.trace`.
        """
        params, state = split(variables)
        inner = self._unbound()
        options = given(rngs=rngs, method=_own(method), mutable=without_params(mutable))
        options |= kwargs
        call = trace(inner, params, state, inputs, options)
        return ConvertedCall(call, partial(joined, state))

    @nn.nowrap
    def apply(
        self,
        variables: Variables,
        *args: Any,
        rngs: Any = None,
        method: Any = None,
        mutable: CollectionFilter = False,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> Any:
        """Returns what the model's `apply` returns, with slopes in its activations and fused sites.

        Args:
          variables: what `init` or a collapse returned, or the model's own variables.
          *args: the model's inputs.
          rngs: as for `nn.Module.apply`.
          method: a method of the model, by name or as a function.
          mutable: as for `nn.Module.apply`; params come back as they were given.
          capture_intermediates: as for `nn.Module.apply`.
          **kwargs: the model's inputs given by name.
        """
        params, state = split(variables)
        inner = self._unbound()
        options = given(rngs=rngs, method=_own(method), capture_intermediates=capture_intermediates)
        options |= kwargs
        if not is_function_tree(params):
            run = partial(inner.apply, mutable=mutable, **options)
            with explained(run, variables, args, "the call"):
                return run(variables, *args)
        options |= given(mutable=without_params(mutable))
        returned = run_tree(inner, params, state, args, options)
        if not in_filter(mutable, "params"):
            return returned
        out, updates = returned
        return out, joined(updates, params)

    @nn.nowrap
    def init_with_output(
        self,
        rngs: Any,
        *args: Any,
        method: Any = None,
        mutable: CollectionFilter = _INTERMEDIATES,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the model's output and its variables, with a slope of 0 for every site.

        Args:
          rngs: as for `nn.Module.init_with_output`.
          *args: the model's inputs.
          method: a method of the model, by name or as a function.
          mutable: as for `nn.Module.init_with_output`.
          capture_intermediates: as for `nn.Module.init_with_output`.
          **kwargs: the model's inputs given by name.
        """
        inner = self._unbound()
        options = given(method=_own(method), capture_intermediates=capture_intermediates)
        out, variables = inner.init_with_output(rngs, *args, mutable=mutable, **options, **kwargs)
        params, state = split(variables)
        options = given(rngs=rngs, method=_own(method), mutable=list(state))
        function = as_function(inner)
        try:
            tree = function.init(params, state, *args, **options, **kwargs)
        except ValueError as error:
            if isinstance(error, CollapseError) or not state:
                raise
            # A cache takes its whole length in the call that creates it, and one token afterwards.
            tree = function.init(params, {}, *args, **options, **kwargs)
        return out, joined(state, tree)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the model returns; for use as a submodule, or bound to variables."""
        return self._run_in_scope(None, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the model; a method of a bound module runs its variables."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__.get("model")
            if model is None or name.startswith("__"):
                raise
            if self.scope is not None and callable(getattr(type(model), name, None)):
                return lambda *args, **kwargs: self._run_in_scope(name, args, kwargs)
            return getattr(model, name)

    @nn.nowrap
    def _unbound(self) -> nn.Module:
        """Returns a copy of the model that belongs to no other module.

        Raises:
          TypeError: it is not a linen module.
          CollapseError: it is a `Collapsed` already.
        """
        model = self.__dict__["model"]
        if isinstance(model, Collapsed):
            raise CollapseError(
                "model: got a Collapsed module, expected the model in it. Use it as it is: its "
                "`init` and `apply` run slopes and compact params already."
            )
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model: got {describe(model)}, expected a Flax linen module. Use lcjax.nnx for "
                "NNX modules, lcjax.eqx for Equinox, lcjax.collapsible for functions."
            )
        return model.clone(parent=None, name=None)

    @nn.nowrap
    def _run_in_scope(self, method: str | None, args: Any, kwargs: Any) -> Any:
        """Returns what the model returns for the variables at this module's place in its parent."""
        assert self.scope is not None
        variables = dict(self.variables)
        rngs = {name: self.make_rng(name) for name in self.scope.rngs}
        if self.is_initializing() and not variables.get("params"):
            out, new = self.init_with_output(rngs, *args, method=method, **kwargs)
            self._write(new)
            return out
        mutable = without_params(self.scope.mutable)
        if is_filter_empty(mutable):
            return self.apply(variables, *args, rngs=rngs, method=method, **kwargs)
        out, updates = self.apply(
            variables, *args, rngs=rngs, method=method, mutable=mutable, **kwargs
        )
        self._write(updates)
        return out

    @nn.nowrap
    def _write(self, variables: Mapping[str, Any]) -> None:
        for collection, tree in variables.items():
            if self.is_mutable_collection(collection):
                for name, value in tree.items():
                    self.put_variable(collection, name, value)


def _own(method: Any) -> Any:
    """Returns a method of the model; None for the call, also where it is that of `Collapsed`."""
    unbound = getattr(method, "__func__", method)
    return None if unbound is Collapsed.__call__ else method
