"""The model of a training run's checkpoint, as the checkpoint's metadata describe it."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lcjax._messages import printable
from lcjax.models.bert import Bert
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.named_activations import ACTIVATIONS
from lcjax.models.vit import ViT

_FAMILIES = {"mixer": MLPMixer, "vit": ViT}
_MODULES = {"Bert": Bert, "GPT2": GPT2}
_DTYPES = ("float32", "bfloat16", "float16")
_LARGEST, _DEEPEST = 2**24, 2**10


class Described(NamedTuple):
    """A model and what it takes.

    Attributes:
      module: the Flax module.
      inputs: shape without the batch, and dtype, of each input; none where metadata do not say.
    """

    module: nn.Module
    inputs: tuple[tuple[tuple[int, ...], str], ...]


def model_described(metadata: Mapping[str, Any]) -> Described:
    """Returns the model that metadata of `train.image`, `.sentiment` or `.language` describe.

    An image model takes images as its run normalised them: scaled to [0, 1], less the metadata's
    mean, over their std. A text model takes tokens that are all real.

    Args:
      metadata: of a checkpoint; of any origin.

    Raises:
      ValueError: when they describe none, or one that cannot be.
    """
    try:
        kind, data = metadata["kind"], metadata["data"]
        if kind == "image":
            shape = data.get("image_shape")
            inputs = () if shape is None else ((_widths("image_shape", shape), "float32"),)
            classes = _whole("num_classes", data["num_classes"])
            return Described(_image_model(dict(metadata["model"]), classes), inputs)
        if kind not in ("text", "language"):
            raise ValueError(f"kind is {printable(repr(kind), longest=40)}")
        fields = dict(data["module"])
        length = data["lengths"][-1] if kind == "text" else data["context"]
        if kind == "text":
            fields["num_classes"] = len(data["class_names"])
        module = _built(_MODULES[fields.pop("class")], fields)
        return Described(module, (((_whole("length", length),), "int32"),))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            "the checkpoint's metadata do not describe a model that a training run saved "
            f"({printable(error, longest=200)}). Give --model."
        ) from error


def _image_model(fields: dict[str, Any], num_classes: int) -> nn.Module:
    kind = fields.pop("kind")
    if kind == "mlp":
        hidden = fields.pop("hidden")
        return _built(MLP, fields | {"features": [*hidden, num_classes]})
    if kind == "published":
        family, size = _FAMILIES[fields.pop("family")], fields.pop("size")
        return family.from_preset(size, **_values(family, fields | {"num_classes": num_classes}))
    return _built(_FAMILIES[kind], fields | {"num_classes": num_classes})


def _built(cls: Any, fields: Mapping[str, Any]) -> nn.Module:
    return cls(**_values(cls, fields))


def _values(cls: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a module, each of a type and size that it may have."""
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
    if unknown := fields.keys() - known:
        raise ValueError(f"{cls.__name__} has no field {min(unknown)}")
    return {name: _value(name, value, hints[name]) for name, value in fields.items()}


def _value(name: str, value: Any, hint: Any) -> Any:
    if name == "activation":
        return ACTIVATIONS[value]
    if name == "dtype":
        if value is not None and value not in _DTYPES:
            raise ValueError(f"dtype is {value!r}")
        return None if value is None else jnp.dtype(value)
    if name == "features":
        return _widths(name, value)
    if hint is int or hint == int | None and value is not None:
        return _whole(name, value, _DEEPEST if name == "depth" else _LARGEST)
    number = isinstance(value, int | float) and type(value) is not bool and 0 <= value <= 1
    choice = value is None or (isinstance(value, str) and value.isidentifier())
    if not (number if hint is float else type(value) is bool if hint is bool else choice):
        raise ValueError(f"{name} is {value!r}")
    return value


def _widths(name: str, values: Any) -> tuple[int, ...]:
    return tuple(_whole(name, value) for value in values)


def _whole(name: str, value: Any, largest: int = _LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to {largest:,}")
    return value
