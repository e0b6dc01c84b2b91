"""Calls of a linen model as a collapsible function of its params and its other variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from flax.core.scope import CollectionFilter, subtract_filters

from lcjax._messages import describe
from lcjax.linen.whole_model import check_whole_model
from lcjax.transform.call import run_call
from lcjax.transform.collapsible import collapsible
from lcjax.transform.function import CollapsibleFunction
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.params.tree import is_function_tree, read_params
from lcjax.transform.traced_call import TracedCall
from lcjax.validation.functions import OF_APPLY

Variables = Mapping[str, Any]


def as_function(model: nn.Module) -> CollapsibleFunction:
    """Returns the model's `apply` as a collapsible function of params, state and inputs."""
    return collapsible(_run_of(model), has_state=True)


def trace(
    model: nn.Module, params: Any, state: Variables, args: Sequence[Any], options: Mapping[str, Any]
) -> TracedCall:
    """Returns a traced call of the model.

    Args:
      model: the model.
      params: its own params, or the tree of a collapsible function.
      state: the other collections.
      args: the inputs.
      options: of the model's `apply`, and inputs given by name.

    Raises:
      CollapseError: the tree of another model.
    """
    if not is_function_tree(params):
        return as_function(model).trace(params, state, *args, **options)
    call = _bound(model, params, state, args, options)
    return TracedCall(_run_of(model), call, (state,), options)


def run_tree(
    model: nn.Module, params: Any, state: Variables, args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Returns what the model's `apply` returns with the tree of a collapsible function.

    Arguments and errors as of `trace`.
    """
    return run_call(_bound(model, params, state, args, options))


def split(variables: Variables) -> tuple[Any, dict[str, Any]]:
    """Returns the params of variables and the other collections.

    Raises:
      TypeError: no mapping.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"variables: got {describe(variables)}, expected a mapping of collections. Pass "
            "{'params': params, ...}, as to `apply` of a linen module."
        )
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return variables.get("params", {}), state


def joined(state: Variables, params: Any) -> dict[str, Any]:
    """Returns the variables of params and the other collections."""
    return {**state, "params": params}


def given(**options: Any) -> dict[str, Any]:
    """Returns the options of a call that are neither None nor False."""
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }


def without_params(mutable: CollectionFilter) -> CollectionFilter:
    """Returns a filter of collections without params: a call may not return its kernels."""
    return False if mutable is False else subtract_filters(mutable, "params")


def _bound(
    model: nn.Module, params: Any, state: Variables, args: Sequence[Any], options: Mapping[str, Any]
) -> BoundCall:
    tree = read_params(params)
    call = bind_call(_run_of(model), tree, (state, *args), options, has_state=True)
    if "method" not in options:
        inputs = {name: value for name, value in options.items() if name not in OF_APPLY}
        check_whole_model(call, model, args, inputs)
    return call


def _run_of(model: nn.Module) -> Callable[..., Any]:
    def run(params: Any, state: Variables, /, *args: Any, **kwargs: Any) -> Any:
        return model.apply({**state, "params": params}, *args, **kwargs)

    run.__wrapped__ = model.apply  # whose signature messages show
    return run
