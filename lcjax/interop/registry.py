"""The registry of name maps, and the choice of one for a config or a file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.interop.maps import (
    BERT_MAP,
    DECODER_MAP,
    DISTILBERT_MAP,
    GPT2_MAP,
    HF_VIT_MAP,
    MODERNBERT_MAP,
    ROBERTA_MAP,
    TIMM_MIXER_MAP,
    TIMM_VIT_MAP,
    TORCHVISION_VGG_MAP,
)
from lcjax.interop.name_map import NameMap
from lcjax.interop.safetensors_file import Stored, Tensors
from lcjax.interop.source import Source, read_config, resolve_source
from lcjax.tree.paths import natural_sort_key

NAME_MAPS = (
    BERT_MAP,
    ROBERTA_MAP,
    DISTILBERT_MAP,
    MODERNBERT_MAP,
    DECODER_MAP,
    GPT2_MAP,
    HF_VIT_MAP,
    TIMM_VIT_MAP,
    TIMM_MIXER_MAP,
    TORCHVISION_VGG_MAP,
)


def model_from_config(source: Source, **fields: Any) -> nn.Module:
    """Returns the model that the config.json of a Hugging Face or timm source describes.

    Args:
      source: as of `load_safetensors`, but not a file.
      **fields: attributes of the model that override the config's, such as num_classes.

    Raises:
      FileNotFoundError: source does not exist.
      WeightsError: no config.json, or one of an unsupported architecture.

    Example:
      >>> import json, pathlib, tempfile, lcjax.interop
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> config = {"architecture": "mixer_s16_224", "num_classes": 1000}
      >>> _ = (folder / "config.json").write_text(json.dumps(config))
      >>> lcjax.interop.model_from_config(folder, num_classes=10).depth
      8
    """
    path = resolve_source(source)
    config = read_config(path)
    if config is None:
        raise WeightsError(
            f"{path}: expected a config.json in it; build the model with lcjax.models."
        )
    for names in NAME_MAPS:
        if described := names.fields(config):
            return names.model(**(described | fields))
    kind = config.get("model_type", config.get("architecture"))
    shown = printable(repr(kind), longest=60)
    raise WeightsError(f"{path}/config.json: got {shown}, expected one of {known()}.")


def check_model(model: nn.Module) -> None:
    """Raises a TypeError unless there is a name map for the model's class."""
    if not any(isinstance(model, names.model) for names in NAME_MAPS):
        raise TypeError(f"model: got a {type(model).__name__}, expected one of {known()}.")


def inputs_of(model: nn.Module, stored: Mapping[str, Stored]) -> jax.ShapeDtypeStruct:
    """Returns abstract inputs for which the model has the shapes of tensors that lcjax wrote."""
    names = next(names for names in NAME_MAPS if isinstance(model, names.model))
    return names.inputs(model, stored)


def name_map_of(
    tensors: Tensors, model: nn.Module, config: Mapping[str, Any] | None = None
) -> NameMap:
    """Returns the name map of the library that wrote a file of the model's architecture.

    Where the names are those of several architectures, it is the one that config.json names.

    Raises:
      WeightsError: a file of another or an unsupported architecture.
    """
    kind = (config or {}).get("model_type")
    for names in sorted(NAME_MAPS, key=lambda names: kind not in names.types):
        if names.marker not in {names.plain(name) for name in tensors.stored}:
            continue
        if isinstance(model, names.model):
            return names
        raise WeightsError(
            f"{tensors.where}: got the weights of a {names.model.__name__} with the names of "
            f"{names.library}, expected those of a {type(model).__name__}; load them into a "
            f"lcjax.models.{names.model.__name__}."
        )
    names = sorted(tensors.stored, key=natural_sort_key)[:5]
    first = ", ".join(printable(name, longest=60) for name in names) or "no tensors"
    raise WeightsError(
        f"{tensors.where}: got {first}, ...; expected the weights of one of {known()} with the "
        "names of Hugging Face, timm or torchvision."
    )


def known() -> str:
    """Returns the names of the supported classes, with the values of model_type of some."""
    types: dict[str, tuple[str, ...]] = {}
    for names in NAME_MAPS:
        name = names.model.__name__
        types[name] = (*types.get(name, ()), *names.types)
    return ", ".join(
        f"{name} ({', '.join(types[name])})" if types[name] else name for name in sorted(types)
    )
