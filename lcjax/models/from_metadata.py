"""Builds the model of a training run from the metadata of its checkpoint."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lcjax._messages import printable
from lcjax.models.activations import ACTIVATIONS
from lcjax.models.bert import BERT
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.vit import ViT

_FAMILIES = {"mixer": MLPMixer, "vit": ViT}
_MODULES = {"BERT": BERT, "GPT2": GPT2}
# Names of classes and fields in checkpoints of lcjax before 0.1, and what they are called now.
_OLD_CLASSES: dict[Any, str] = {"Bert": "BERT"}
_OLD_FIELDS = {"gated": "glu"}
_DTYPES = ("float32", "bfloat16", "float16")
_LARGEST, _DEEPEST = 2**24, 2**10
_MAYBE_0 = ("token_types", "position_offset")  # numbers that may be 0


class DescribedModel(NamedTuple):
    """A model and its inputs.

    Attributes:
      module: the Flax module.
      inputs: shape without the batch axis, and dtype, of each input; empty if not in the metadata.
    """

    module: nn.Module
    inputs: tuple[tuple[tuple[int, ...], str], ...]


def model_from_metadata(metadata: Mapping[str, Any]) -> DescribedModel:
    """Returns the model described by metadata of `train.image`, `.sentiment` or `.language`.

    An image model takes normalised images: scaled to [0, 1], minus the metadata's mean, divided by
    its std. A text model takes tokens without padding.

    Args:
      metadata: metadata of a checkpoint, not necessarily trusted.

    Raises:
      ValueError: metadata that describe no model, or one with impossible fields.

    Example:
      >>> model = {"kind": "mlp", "hidden": [8], "activation": "relu"}
      >>> data = {"num_classes": 10, "image_shape": [28, 28, 1]}
      >>> model_from_metadata({"kind": "image", "model": model, "data": data}).inputs
      (((28, 28, 1), 'float32'),)
    """
    try:
        kind, data = metadata["kind"], metadata["data"]
        if kind == "image":
            shape = data.get("image_shape")
            inputs = () if shape is None else ((_sizes("image_shape", shape), "float32"),)
            classes = _positive_int("num_classes", data["num_classes"])
            return DescribedModel(_image_model(dict(metadata["model"]), classes), inputs)
        if kind not in ("text", "language"):
            raise ValueError(f"kind: got {printable(repr(kind), longest=40)}")
        fields = dict(data["module"])
        length = data["lengths"][-1] if kind == "text" else data["context"]
        if kind == "text":
            fields["num_classes"] = len(data["class_names"])
        name = fields.pop("class")
        module = _build(_MODULES[_OLD_CLASSES.get(name) or name], fields)
        return DescribedModel(module, (((_positive_int("length", length),), "int32"),))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            "metadata: expected the description of a model that a training run saved "
            f"({printable(error, longest=200)}); give --model."
        ) from error


def _image_model(fields: dict[str, Any], num_classes: int) -> nn.Module:
    kind = fields.pop("kind")
    if kind == "mlp":
        hidden = fields.pop("hidden")
        return _build(MLP, fields | {"features": [*hidden, num_classes]})
    fields["num_classes"] = num_classes
    if kind == "published":
        family, size = _FAMILIES[fields.pop("family")], fields.pop("size")
        return family.from_preset(size, **_attributes(family, fields))
    return _build(_FAMILIES[kind], fields)


def _build(cls: Any, fields: Mapping[str, Any]) -> nn.Module:
    return cls(**_attributes(cls, fields))


def _attributes(cls: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a module, after a check of their types and sizes."""
    fields = {_OLD_FIELDS.get(name, name): value for name, value in fields.items()}
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
    if unknown := fields.keys() - known:
        raise ValueError(f"{cls.__name__} has no attribute {min(unknown)}")
    return {name: _value(name, value, hints[name]) for name, value in fields.items()}


def _value(name: str, value: Any, hint: Any) -> Any:
    if name in ("activation", "pooler_activation"):
        return ACTIVATIONS[value]
    if name == "dtype":
        if value is not None and value not in _DTYPES:
            raise ValueError(f"dtype: got {value!r}, expected one of {', '.join(_DTYPES)}")
        return None if value is None else jnp.dtype(value)
    if name == "features":
        return _sizes(name, value)
    if hint is int or hint == int | None and value is not None:
        if value == 0 and name in _MAYBE_0:
            return 0
        return _positive_int(name, value, _DEEPEST if name == "depth" else _LARGEST)
    number = isinstance(value, int | float) and type(value) is not bool and 0 <= value <= 1
    choice = value is None or (isinstance(value, str) and value.isidentifier())
    if not (number if hint is float else type(value) is bool if hint is bool else choice):
        raise ValueError(f"{name}: got {value!r}")
    return value


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    return tuple(_positive_int(name, value) for value in values)


def _positive_int(name: str, value: Any, largest: int = _LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name}: got {value!r}, expected an integer from 1 to {largest:,}")
    return value
