"""Modules as JSON, for the metadata of checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lcjax.models import BERT, GPT2
from lcjax.models.activations import ACTIVATIONS as PRETRAINED_ACTIVATIONS
from train.models.base import ACTIVATIONS, DEEPEST, WIDEST

# "Bert" and "gated" are names of earlier versions.
_MODULES = {"BERT": BERT, "Bert": BERT, "GPT2": GPT2}
_FUNCTIONS = {**ACTIVATIONS, **PRETRAINED_ACTIVATIONS}


def module_as_json(module: nn.Module) -> dict[str, Any]:
    """Returns the module as JSON, to be read by `module_from_json`.

    Raises:
      ValueError: if the activation is not one of `lcjax.models`.
    """
    names = [field.name for field in dataclasses.fields(module) if field.name not in _FLAX]
    fields = {name: getattr(module, name) for name in names}
    named = {name: _name(name, fields[name]) for name in _ACTIVATIONS if name in fields}
    dtype = None if fields["dtype"] is None else jnp.dtype(fields["dtype"]).name
    return fields | {"class": type(module).__name__, **named, "dtype": dtype}


def module_from_json(fields: Mapping[str, Any], **replaced: Any) -> Any:
    """Returns the module of these fields, which an earlier version may have written.

    Args:
      fields: from `module_as_json`.
      **replaced: attributes that replace those in the fields.

    Raises:
      ValueError: if a number is out of range.
      KeyError, TypeError: if the fields are not those of a module.
    """
    left = {"glu" if name == "gated" else name: value for name, value in fields.items()}
    for name, value in {**left, **replaced}.items():
        most = DEEPEST if name == "depth" else WIDEST
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, expected 0 to {most:,}")
    module = _MODULES[left.pop("class")]
    left |= {name: _FUNCTIONS[left[name]] for name in _ACTIVATIONS if name in left}
    left["dtype"] = None if left["dtype"] is None else jnp.dtype(left["dtype"])
    return module(**left | replaced)


def _name(field: str, activation: Any) -> str:
    for name, function in _FUNCTIONS.items():
        if function is activation:
            return name
    raise ValueError(
        f"{field} is {activation!r}, which has no name in a checkpoint; expected one of "
        f"{', '.join(_FUNCTIONS)}."
    )


_FLAX = ("parent", "name")
_ACTIVATIONS = ("activation", "pooler_activation")  # fields that are functions
