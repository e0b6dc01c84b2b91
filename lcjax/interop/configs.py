"""Fields of a foreign config.json: of the right type, in range, and none that changes the model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lcjax._messages import printable
from lcjax.interop.errors import WeightsError
from lcjax.models.named_activations import ACTIVATIONS
from lcjax.validation.json_files import kind_of

Config = Mapping[str, Any]

_LARGEST, _DEEPEST = 2**24, 2**10
# Of timm's arguments those that shapes show, or that matter in training alone.
_HARMLESS = frozenset({"img_size", "num_classes", "drop_rate", "drop_path_rate"})
# Fields of any architecture that make another function of the same weights.
_PLAIN: Config = {"pruned_heads": {}, "is_encoder_decoder": False, "quantization_config": None}


def whole(config: Config, name: str, *, largest: int = _LARGEST) -> int:
    """Returns a field that is a whole number from 1 to `largest`."""
    value = _field(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise _error(name, value, f"a whole number from 1 to {largest:,}")
    return value


def depth(config: Config, name: str) -> int:
    """Returns a field that counts blocks."""
    return whole(config, name, largest=_DEEPEST)


def optional_whole(config: Config, name: str) -> int | None:
    """Returns a field that is a whole number, null or not there."""
    return None if config.get(name) is None else whole(config, name)


def heads(config: Config, name: str, width: str) -> int:
    """Returns a field that counts heads, which divide the width."""
    count = whole(config, name)
    if whole(config, width) % count:
        raise _error(name, count, f"a divisor of {width}, {config[width]}")
    return count


def epsilon(config: Config, name: str) -> float:
    """Returns a field that is the small number of a norm."""
    value = _field(config, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value < 1:
        raise _error(name, value, "a number between 0 and 1, both excluded")
    return float(value)


def activation(config: Config, name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that a field names."""
    value = _field(config, name)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise _error(name, value, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def classes(config: Config) -> int | None:
    """Returns the width of the head that a Hugging Face config describes; None for no head."""
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise _error("architectures", named, "a list of names")
    heads = ("ForImageClassification", "ForSequenceClassification")
    if not any(name.endswith(heads) for name in named):
        return None
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise _error("id2label", labels, "an object from number to name")
    return len(labels) if labels else optional_whole(config, "num_labels") or 2


def timm_classes(config: Config) -> int | None:
    """Returns the width of the head that a timm config describes; None, which it writes 0."""
    return whole(config, "num_classes") if _field(config, "num_classes") else None


def refuse_other_functions(config: Config, only: Config, model: str) -> None:
    """Raises where a field makes another function than a model computes.

    Args:
      config: a config.json.
      only: the values that the model has, which are also what a missing field means.
      model: what the message calls it.

    Raises:
      WeightsError: names the first such field, its value and the model's.
    """
    for name, value in {**_PLAIN, **only}.items():
        given = config.get(name)
        if given is not None and given != value and (given or value):  # {} and [] are both off
            raise WeightsError(
                f"config.json: {name} is {_shown(given)}, which makes another function of the "
                f"weights; {model} computes that of {value!r} alone. Load it with its own library."
            )


def refuse_other_arguments(config: Config, model: str) -> None:
    """Raises where timm's model_args change the model that the architecture's name stands for.

    Raises:
      WeightsError: names the first such argument.
    """
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise _error("model_args", arguments, "an object")
    for name in arguments.keys() - _HARMLESS:
        raise WeightsError(
            f"config.json: model_args has {printable(name, longest=60)}, which makes another model "
            f"of the architecture; {model} knows {', '.join(sorted(_HARMLESS))} alone. Load it "
            "with its own library."
        )


def _field(config: Config, name: str) -> Any:
    if name not in config:
        raise WeightsError(
            f"config.json: {name!r} is not there; expected it in a config of this model_type. "
            "Fetch the file again."
        )
    return config[name]


def _error(name: str, value: Any, expected: str) -> WeightsError:
    return WeightsError(f"config.json: {name} is {_shown(value)}; expected {expected}.")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"an {kind_of(value)} of {len(value)}"
    return printable(repr(value), longest=60)
