"""Models by name, as a command line gives them."""

import ast
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from lcjax.leaves import flatten, joined
from lcjax.models.bert import Bert
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.vgg import VGG
from lcjax.models.vit import ViT
from lcjax.sites import params_of

_MODELS = {"bert": Bert, "gpt2": GPT2, "mixer": MLPMixer, "mlp": MLP, "vgg": VGG, "vit": ViT}
_OF_TOKENS = (Bert, GPT2)
_WITH_CLASSES = (Bert, MLPMixer, VGG, ViT)


def model_named(name: str, variables: Any) -> nn.Module | Callable[..., Any]:
    """Returns the model that a name stands for.

    `MODEL:PRESET` is a published size of a model in lcjax.models, `vit:B/16`, `gpt2:124M`; fields
    may follow, `vit:B/16,num_classes=10,pool="mean"`, or stand alone, `mlp:features=(256,10)`.
    `MODULE:ATTRIBUTE` is what a Python module holds: a Flax module, or `apply(variables, *inputs)`.

    Args:
      name: of either form.
      variables: that it shall run; where no `num_classes` is given, their head tells.

    Raises:
      ValueError: a name of another form, an unknown preset or field, a module that cannot be
        imported or does not hold the attribute.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        raise ValueError(
            f"model {name!r}: wanted MODEL:PRESET, such as vit:B/16 or gpt2:124M, or "
            "MODULE:ATTRIBUTE of a Python module."
        )
    if kind not in _MODELS:
        return _imported(kind, rest)
    cls = _MODELS[kind]
    preset, fields = _fields(name, rest)
    if cls in _WITH_CLASSES:
        fields.setdefault("num_classes", _classes(params_of(variables)))
    try:
        return cls.from_preset(preset, **fields) if preset else cls(**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"model {name!r}: {error}.") from error


def takes_tokens(model: Any) -> bool:
    """Tells whether a model of lcjax.models reads tokens, which are integers."""
    return isinstance(model, _OF_TOKENS)


def check_all_used(model: nn.Module, variables: Any, inputs: Sequence[Any]) -> None:
    """Raises unless a model has a module for every leaf; Flax ignores the others in silence.

    Args:
      model: of any form.
      variables: that it shall run, deep or compact.
      inputs: what `model.init` takes; arrays or ShapeDtypeStructs.

    Raises:
      ValueError: when leaves are left over, as of a deeper network; names some.
    """
    deep = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    modules = {path[:-1] for path in flatten(deep)}
    over = [joined(path) for path in flatten(variables) if path[:-1] not in modules]
    if over:
        raise ValueError(
            f"{type(model).__name__} has no module for {len(over)} leaves of the checkpoint, "
            f"such as {', '.join(over[:3])}: it is that of another model."
        )


def _fields(name: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns the preset, or "", and the fields that follow it."""
    first, *others = re.split(r",(?=\w+=)", text)
    preset, given = ("", [first, *others]) if re.match(r"\w+=", first) else (first, others)
    fields = {}
    for one in given:
        key, _, value = one.partition("=")
        try:
            fields[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"model {name!r}: {key} is {value}; wanted a Python literal, such as 10, "
                '"mean", None or (256, 10).'
            ) from error
    return preset, fields


def _classes(params: Mapping[str, Any]) -> int | None:
    """Returns the width of the head that params hold; None where there is none."""
    chain = params.get("mlp", {})
    last = max((child for child in chain if child.startswith("dense_")), default="")
    head = params.get("head", chain.get(last, {}))
    return head["kernel"].shape[-1] if "kernel" in head else None


def _imported(module: str, attribute: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {module}:{attribute}: {error}. Models of lcjax.models are "
            f"{', '.join(_MODELS)}; others are imported, from where Python finds modules."
        ) from error
