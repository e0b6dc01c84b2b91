"""The params that a module finds in the variables it is applied to."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from flax.core import meta

from lcjax.errors import CollapseError

Initializer = Callable[..., Any]


def stored_in(module: nn.Module, collection: str = "params") -> Mapping[str, Any]:
    """Returns the module's part of a collection, unboxed; empty if there is none."""
    return meta.unbox(module.variables.get(collection, {}))


def child_path(module: nn.Module, child: str) -> str:
    """Returns the slash-joined path of a child module."""
    return "/".join((*module.path, child))


def stored_width(params: Mapping[str, Any], dense: str) -> int:
    """Returns the output width of a Dense in params."""
    return params[dense]["kernel"].shape[-1]


def check_has_params(module: nn.Module, params: Mapping[str, Any]):
    """Raises CollapseError if a module that needs params has none."""
    if not params and not module.is_initializing() and not module.is_mutable_collection("params"):
        raise CollapseError(
            f"{'/'.join(module.path) or type(module).__name__}: the variables have no params for "
            "this module; expected variables with a collection 'params'. Pass what init returned, "
            "or {'params': params}."
        )
