"""Models by name, as a command line gives them."""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax.errors import FlaxError

from lcjax._messages import printable
from lcjax.io.leaves import flatten, joined
from lcjax.models.bert import Bert
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.named_activations import ACTIVATIONS
from lcjax.models.vgg import VGG
from lcjax.models.vit import ViT
from lcjax.nn.mlp import CollapsibleMLP
from lcjax.structure.sites import params_of
from lcjax.tree.paths import natural_sort_key

_MODELS = {"bert": Bert, "gpt2": GPT2, "mixer": MLPMixer, "mlp": MLP, "vgg": VGG, "vit": ViT}
_OF_TOKENS = (Bert, GPT2)
_WITH_CLASSES = (Bert, MLPMixer, VGG, ViT)


def model_named(name: str, variables: Any) -> nn.Module | Callable[..., Any]:
    """Returns the model that a name stands for.

    `MODEL:PRESET` is a published size of a model in lcjax.models, `vit:B/16`, `gpt2:124M`; fields
    may follow, `vit:B/16,num_classes=10,pool="mean"`, or stand alone, `mlp:features=(256,10)`; an
    activation is given by its name. `mlp` is a chain of Denses: `lcjax.models.MLP` where params
    have it under `mlp`, as `train.image` saves it, `lcjax.CollapsibleMLP` where they have it by
    itself. `MODULE:ATTRIBUTE` is what a Python module has: a Flax module, or
    `apply(variables, *inputs)`. The module is imported, so its code runs; it is searched for where
    Python finds modules, and last in the working directory.

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
    cls: Any = _MODELS[kind]
    if kind == "mlp" and any(child.startswith("dense_") for child in _params(variables)):
        cls = CollapsibleMLP
    preset, fields = _fields(name, rest)
    if cls in _WITH_CLASSES:
        fields.setdefault("num_classes", _classes(_params(variables)))
    try:
        return cls.from_preset(preset, **fields) if preset else cls(**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"model {name!r}: {error}.") from error


def takes_tokens(model: Any) -> bool:
    """Tells whether a model of lcjax.models reads tokens, which are integers."""
    return isinstance(model, _OF_TOKENS)


def check_all_used(model: nn.Module, variables: Any, inputs: Sequence[Any]) -> None:
    """Raises unless a model runs with every leaf used; Flax ignores the others in silence.

    Args:
      model: of any form.
      variables: that it shall run, deep or compact.
      inputs: what `model.init` takes; arrays or ShapeDtypeStructs.

    Raises:
      ValueError: when leaves are left over, as of a deeper network, or have another shape than
        these inputs need; names some.
    """
    deep = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    wanted = flatten(deep)
    modules = {path[:-1] for path in wanted}
    over = [joined(path) for path in flatten(variables) if path[:-1] not in modules]
    if over:
        raise ValueError(
            f"{type(model).__name__} has no module for {len(over)} leaves of the checkpoint, "
            f"such as {printable(', '.join(over[:3]))}: it is that of another model."
        )
    try:
        jax.eval_shape(model.apply, variables, *inputs)
    except FlaxError as error:
        shapes = ", ".join(str(leaf.shape[1:]) for leaf in inputs)
        raise ValueError(
            f"{type(model).__name__} cannot run the checkpoint on inputs of shape {shapes}: "
            f"{error}. Give the model and the shapes that it was trained with."
        ) from error


def _fields(name: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns the preset, or "", and the fields that follow it."""
    first, *others = re.split(r",(?=\w+=)", text)
    preset, given = ("", [first, *others]) if re.match(r"\w+=", first) else (first, others)
    fields = {}
    for one in given:
        key, _, value = one.partition("=")
        try:
            fields[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            if key == "activation" and value in ACTIVATIONS:
                fields[key] = ACTIVATIONS[value]
                continue
            raise ValueError(
                f"model {name!r}: {key} is {value}; wanted a Python literal, such as 10, "
                '"mean", None or (256, 10).'
            ) from error
        if key == "activation" and isinstance(fields[key], str):
            if fields[key] not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(f"model {name!r}: activation is {value}; wanted one of {known}.")
            fields[key] = ACTIVATIONS[fields[key]]
    return preset, fields


def _params(variables: Any) -> Mapping[str, Any]:
    params = params_of(variables)
    return params if isinstance(params, Mapping) else {}


def _classes(params: Mapping[str, Any]) -> int | None:
    """Returns the width of the head that params hold; None where there is none."""
    chain = params.get("mlp", {})
    last = max(
        (child for child in chain if child.startswith("dense_")), default="", key=natural_sort_key
    )
    head = params.get("head", chain.get(last, {}))
    return head["kernel"].shape[-1] if "kernel" in head else None


def _imported(module: str, attribute: str) -> Any:
    name = f"{module}:{attribute}"
    try:
        with _working_directory_last():
            found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {name}: {error}. Models of lcjax.models are {', '.join(_MODELS)}; others are "
            "imported, from where Python finds modules or from the working directory."
        ) from error
    except Exception as error:  # whatever the module's own code raises
        raise ValueError(
            f"model {name}: importing {module} raised {type(error).__name__}: {error}."
        ) from error
    if isinstance(found, type) or not (isinstance(found, nn.Module) or callable(found)):
        got = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"model {name}: got {got}, wanted a Flax module, such as {module}.model with "
            "model = Net(...), or a function apply(variables, *inputs)."
        )
    return found


@contextmanager
def _working_directory_last() -> Iterator[None]:
    """Lets Python find modules in the working directory too, behind all that are installed."""
    here = str(Path.cwd())
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.reverse()  # the entry is the last of its name: others may be there before it
        sys.path.remove(here)
        sys.path.reverse()
