"""Reads fields of another library's config.json, with checks of types and ranges."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.models.activations import ACTIVATIONS
from lcjax.validation.json_files import kind_of

Config = Mapping[str, Any]

_LARGEST, _DEEPEST = 2**24, 2**10
# Arguments of timm that the shapes of tensors show, or that only affect training.
_HARMLESS = frozenset({"img_size", "num_classes", "drop_rate", "drop_path_rate"})
# Fields of any architecture that change the function of the weights, and their usual values.
_DEFAULTS: Config = {"pruned_heads": {}, "is_encoder_decoder": False}


def positive_int(config: Config, name: str, *, largest: int = _LARGEST) -> int:
    """Returns a field that is an integer from 1 to `largest`."""
    value = _field(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise error(name, value, f"an integer from 1 to {largest:,}")
    return value


def depth(config: Config, name: str) -> int:
    """Returns a field that is the number of blocks."""
    return positive_int(config, name, largest=_DEEPEST)


def optional_int(config: Config, name: str) -> int | None:
    """Returns a field that is a positive integer, null or missing."""
    return None if config.get(name) is None else positive_int(config, name)


def heads(config: Config, name: str, width: str) -> int:
    """Returns a field that is the number of heads, which must divide the width."""
    count = positive_int(config, name)
    if positive_int(config, width) % count:
        raise error(name, count, f"a divisor of {width}, {config[width]}")
    return count


def natural(config: Config, name: str, default: int) -> int:
    """Returns a field that is an integer from 0; the default where it is null or missing."""
    value = config.get(name)
    return 0 if value == 0 and type(value) is int else optional_int(config, name) or default


def positive_number(config: Config, name: str, default: float | None = None) -> float:
    """Returns a field that is a finite positive number; the default where it is null or missing."""
    if config.get(name) is None and default is not None:
        return default
    value = _field(config, name)
    if not 0 < _number(value) < math.inf:
        raise error(name, value, "a positive number")
    return float(value)


def optional_number(config: Config, name: str) -> float | None:
    """Returns a field that is a finite positive number, null or missing."""
    return None if config.get(name) is None else positive_number(config, name)


def flag(config: Config, name: str, default: bool) -> bool:
    """Returns a field that is true or false; the default where it is null or missing."""
    value = default if config.get(name) is None else config[name]
    if not isinstance(value, bool):
        raise error(name, value, "true or false")
    return value


def epsilon(config: Config, name: str) -> float:
    """Returns a field that is the epsilon of a norm."""
    value = _field(config, name)
    if not 0 < _number(value) < 1:
        raise error(name, value, "a number between 0 and 1, exclusive")
    return float(value)


def activation_name(config: Config, name: str) -> str:
    """Returns a field that is the name of an activation."""
    value = _field(config, name)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise error(name, value, f"one of {', '.join(ACTIVATIONS)}")
    return value


def activation(config: Config, name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation that a field names."""
    return ACTIVATIONS[activation_name(config, name)]


def classes(config: Config) -> int | None:
    """Returns the number of classes of a Hugging Face config; None for no head."""
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise error("architectures", named, "a list of names")
    heads = ("ForImageClassification", "ForSequenceClassification")
    if not any(name.endswith(heads) for name in named):
        return None
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise error("id2label", labels, "an object from numbers to names")
    return len(labels) if labels else optional_int(config, "num_labels") or 2


def timm_classes(config: Config) -> int | None:
    """Returns the number of classes of a timm config; None for no head, which timm writes as 0."""
    return positive_int(config, "num_classes") if _field(config, "num_classes") else None


def check_same_function(config: Config, fixed: Config, model: str) -> None:
    """Raises if a field asks for another function than the model computes.

    Args:
      config: contents of a config.json.
      fixed: the only supported values, which are also the defaults of missing fields.
      model: name of the model in the message.

    Raises:
      WeightsError: quantized weights, by the name of their method; or names the first such field,
        its value and the supported one.
    """
    _check_not_quantized(config)
    for name, value in {**_DEFAULTS, **fixed}.items():
        given = config.get(name)
        if given is not None and given != value and (given or value):  # {} and [] are both off
            raise WeightsError(
                f"config.json, {name}: got {_shown(given)}, expected {value!r}, all that "
                f"{model} implements; load the weights with their own library."
            )


def check_harmless_arguments(config: Config, model: str) -> None:
    """Raises if timm's model_args change the model that the architecture names.

    Raises:
      WeightsError: names the first such argument.
    """
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise error("model_args", arguments, "an object")
    for name in arguments.keys() - _HARMLESS:
        raise WeightsError(
            f"config.json, model_args: got {printable(name, longest=60)}, which changes the model; "
            f"{model} expects only {', '.join(sorted(_HARMLESS))}. Load the weights with their own "
            "library."
        )


def _check_not_quantized(config: Config) -> None:
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        shown = _shown(quantized) if method is None else printable(repr(method), longest=60)
        raise WeightsError(
            f"config.json, quantization_config: got weights quantized by {shown}, expected float "
            "weights; load the original checkpoint, or dequantize this one with its own library."
        )


def _number(value: Any) -> float:
    """Returns a number as a float; NaN for anything else, infinity for one beyond the range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _field(config: Config, name: str) -> Any:
    if name not in config:
        raise WeightsError(
            f"config.json, {name}: the field is missing; expected it for this model_type. Download "
            "the file again."
        )
    return config[name]


def error(name: str, value: Any, expected: str) -> WeightsError:
    """Returns the error for a field's value."""
    return WeightsError(f"config.json, {name}: got {_shown(value)}, expected {expected}.")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"an {kind_of(value)} of {len(value)}"
    return printable(repr(value), longest=60)
