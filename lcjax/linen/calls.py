"""Calls of a linen model as a collapsible function of its params and its other variables."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core.scope import CollectionFilter, subtract_filters

from lcjax._messages import describe
from lcjax.transform.collapsible import collapsible
from lcjax.transform.function import CollapsibleFunction

Variables = Mapping[str, Any]


def as_function(model: nn.Module) -> CollapsibleFunction:
    """Returns the model's `apply` as a collapsible function of params, state and inputs."""

    def run(params: Any, state: Variables, /, *args: Any, **kwargs: Any) -> Any:
        return model.apply({**state, "params": params}, *args, **kwargs)

    return collapsible(run, has_state=True)


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
