"""Modules as JSON, for the metadata of checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lcjax.models import BERT, GPT2, Decoder, DecoderConfig
from lcjax.models.activations import ACTIVATIONS as PRETRAINED_ACTIVATIONS
from lcjax.models.decoder import Rope
from train.models.base import ACTIVATIONS, DEEPEST, WIDEST

# "Bert" and "gated" are names of earlier versions.
_MODULES = {"BERT": BERT, "Bert": BERT, "GPT2": GPT2}
_FUNCTIONS = {**ACTIVATIONS, **PRETRAINED_ACTIVATIONS}


def module_as_json(module: nn.Module) -> dict[str, Any]:
    """Returns the module as JSON, to be read by `module_from_json`.

    Raises:
      ValueError: if the activation is not one of `lcjax.models`.
    """
    if isinstance(module, Decoder):
        return _decoder_as_json(module)
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
    if fields["class"] == "Decoder":
        return _decoder_from_json(fields).clone(**replaced)
    left = {"glu" if name == "gated" else name: value for name, value in fields.items()}
    for name, value in {**left, **replaced}.items():
        most = DEEPEST if name == "depth" else WIDEST
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, expected 0 to {most:,}")
    module = _MODULES[left.pop("class")]
    left |= {name: _FUNCTIONS[left[name]] for name in _ACTIVATIONS if name in left}
    left["dtype"] = None if left["dtype"] is None else jnp.dtype(left["dtype"])
    return module(**left | replaced)


def _decoder_as_json(module: Decoder) -> dict[str, Any]:
    dtype = None if module.dtype is None else jnp.dtype(module.dtype).name
    config = dataclasses.asdict(module.config) | {"windows": list(module.config.windows)}
    return {"class": "Decoder", "config": config, "dtype": dtype, "remat": module.remat}


def _decoder_from_json(fields: Mapping[str, Any]) -> Decoder:
    """Returns a decoder, whose config checks its own sizes.

    Raises:
      ValueError: a number out of range.
      KeyError, TypeError: other fields.
    """
    given = dict(fields["config"])
    ropes = [given[name] or {} for name in ("rope", "local_rope")]
    for name, value in [pair for part in (given, *ropes) for pair in part.items()]:
        most = DEEPEST if name == "depth" else WIDEST
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, expected 0 to {most:,}")
    given["rope"] = Rope(**given["rope"])
    given["local_rope"] = given["local_rope"] and Rope(**given["local_rope"])
    given["windows"] = tuple(given["windows"])
    dtype = None if fields["dtype"] is None else jnp.dtype(fields["dtype"])
    return Decoder(DecoderConfig(**given), dtype=dtype, remat=bool(fields["remat"]))


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
