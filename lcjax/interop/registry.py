"""All tables of names, and which of them is a file's."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lcjax._messages import printable
from lcjax.interop.errors import WeightsError
from lcjax.interop.maps.bert import BERT_NAMES
from lcjax.interop.maps.gpt2 import GPT2_NAMES
from lcjax.interop.maps.mixer import TIMM_MIXER
from lcjax.interop.maps.vgg import TORCHVISION_VGG
from lcjax.interop.maps.vit import HF_VIT, TIMM_VIT
from lcjax.interop.name_map import Names
from lcjax.interop.safetensors_file import Stored, Tensors
from lcjax.interop.source import Source, find_source, read_config
from lcjax.tree.paths import natural_sort_key

TABLES = (BERT_NAMES, GPT2_NAMES, HF_VIT, TIMM_VIT, TIMM_MIXER, TORCHVISION_VGG)


def model_from(source: Source, **fields: Any) -> nn.Module:
    """Returns the model that the config.json of a source describes, of Hugging Face's or timm's.

    Args:
      source: as for `load_safetensors`; not a file.
      **fields: attributes that go before the config's, num_classes among them.

    Raises:
      FileNotFoundError: when there is no such source.
      WeightsError: when it has no config.json, or one of another architecture.
    """
    path = find_source(source)
    config = read_config(path)
    if config is None:
        raise WeightsError(f"{path} has no config.json: build the model from lcjax.models.")
    for names in TABLES:
        if described := names.described(config):
            return names.model(**(described | fields))
    kind = config.get("model_type", config.get("architecture"))
    shown = printable(repr(kind), longest=60)
    raise WeightsError(f"{path}/config.json describes {shown}; wanted one of {known()}.")


def check_model(model: nn.Module) -> None:
    """Raises a TypeError unless there are tables for the model's class."""
    if not any(isinstance(model, names.model) for names in TABLES):
        raise TypeError(f"load_safetensors got a {type(model).__name__}; wanted one of {known()}.")


def inputs_of(model: nn.Module, stored: Mapping[str, Stored]) -> jax.ShapeDtypeStruct:
    """Returns inputs for which the model has the shapes of the tensors that lcjax wrote."""
    names = next(names for names in TABLES if isinstance(model, names.model))
    return names.inputs(model, stored)


def table_of(tensors: Tensors, model: nn.Module) -> Names:
    """Returns the table of the library that wrote a file of the model's architecture.

    Raises:
      WeightsError: when the file is of another architecture, or of none that is known.
    """
    for names in TABLES:
        if names.marker not in {names.plain(name) for name in tensors.stored}:
            continue
        if isinstance(model, names.model):
            return names
        raise WeightsError(
            f"{tensors.where} holds a {names.model.__name__}, as {names.library} names it; the "
            f"model is a {type(model).__name__}. Load it into a lcjax.models."
            f"{names.model.__name__}."
        )
    begins = sorted(tensors.stored, key=natural_sort_key)[:5]
    first = ", ".join(printable(name, longest=60) for name in begins) or "no tensors"
    raise WeightsError(
        f"{tensors.where} holds none of {known()} as a library known here names them; it begins "
        f"with {first}."
    )


def known() -> str:
    """Returns the names of the classes for which there are tables."""
    return ", ".join(sorted({names.model.__name__ for names in TABLES}))
