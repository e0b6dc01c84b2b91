"""Whether the layers of a tree are those of the model that runs it."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from lcjax.errors import CollapseError
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.params.keys import site_at

_NUMBER = re.compile(r"\d+")


def check_whole_model(
    call: BoundCall, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raises CollapseError for slopes or fused sites of a model with more layers.

    Flax ignores params that a call does not read, and some calls run a part of a model: those with
    an option other than its default, or without an optional input, and those of other methods. Any
    other call runs every layer of a numbered series, or none.

    Args:
      call: a call of the model's `__call__`, with the tree.
      model: the model.
      args: its inputs.
      kwargs: those given by name.
    """
    skipped = {path for path in call.params.slopes if call.skips(path)}
    for key in call.params.keys.values():
        skipped |= set() if call.reads(key.removed) else set(key.sites)
    if not skipped or _may_be_a_part(model, args, kwargs):
        return
    leaves = zip(call.trace.paths, call.program.leaves, strict=True)
    run = {_series(site_at(path)): site_at(path) for path, leaf in leaves if leaf.users}
    for path in sorted(skipped):
        if (same := run.get(_series(path))) is not None:
            raise CollapseError(
                f"{path}: has a slope or is fused in this tree, and this call of "
                f"{type(model).__name__} runs {same} but not {path}; expected the tree of this "
                "model. Pass what its own `init` or `collapse` returned, or make the model with as "
                "many layers as that of the tree."
            )


def _series(path: str) -> str:
    """Returns a path without the numbers in it."""
    return _NUMBER.sub("#", path)


def _may_be_a_part(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether the arguments choose what the model runs: options, and inputs left out."""
    bound = inspect.signature(type(model).__call__).bind(model, *args, **kwargs)
    for name, parameter in bound.signature.parameters.items():
        has_default = parameter.default is not parameter.empty
        usual = parameter.default if has_default else False
        value = bound.arguments.get(name, usual)
        if value is model or any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value)):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            usual = {} if parameter.kind is parameter.VAR_KEYWORD else ()
            value = bound.arguments.get(name, usual)
        if value is None or value != usual:
            return True
    return False
