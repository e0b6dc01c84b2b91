"""Model specifications of the command line, such as `vit:B/16,num_classes=10`."""

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
from lcjax.io.leaves import LeafPath, flatten, joined
from lcjax.models.activations import ACTIVATIONS
from lcjax.models.bert import BERT
from lcjax.models.decoder import Decoder
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.vgg import VGG
from lcjax.models.vit import ViT
from lcjax.nn.mlp import CollapsibleMLP
from lcjax.structure.sites import params_of
from lcjax.tree.paths import natural_sort_key

_MODELS = {
    "bert": BERT,
    "decoder": Decoder,
    "gpt2": GPT2,
    "mixer": MLPMixer,
    "mlp": MLP,
    "vgg": VGG,
    "vit": ViT,
}
_TEXT_MODELS = (BERT, Decoder, GPT2)
_CLASSIFIERS = (BERT, MLPMixer, VGG, ViT)


def model_from_spec(spec: str, variables: Any) -> nn.Module | Callable[..., Any]:
    """Returns the model of a specification.

    `MODEL:PRESET` is a published size of a model in lcjax.models, `vit:B/16`, optionally with
    fields, `vit:B/16,num_classes=10,pool="mean"`; fields alone are `mlp:features=(256,10)`. An
    activation is given by name. `mlp` is `lcjax.models.MLP` if params are under `mlp`, as in
    checkpoints of `train.image`, and `lcjax.CollapsibleMLP` otherwise. `MODULE:ATTRIBUTE` is a Flax
    module or a function `apply(variables, *inputs)` in a Python module, which is imported: its code
    runs. The working directory is searched last.

    Args:
      spec: a specification of either form.
      variables: the model's variables; their head is the default of `num_classes`.

    Raises:
      ValueError: a specification of another form, an unknown preset or field, a module that cannot
        be imported or does not have the attribute.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise ValueError(
            f"model: got {spec!r}, expected MODEL:PRESET, such as vit:B/16 or gpt2:124M, or "
            "MODULE:ATTRIBUTE of a Python module."
        )
    if kind not in _MODELS:
        return _imported(kind, rest)
    cls: Any = _MODELS[kind]
    if kind == "mlp" and any(child.startswith("dense_") for child in _params(variables)):
        cls = CollapsibleMLP
    preset, fields = _fields(spec, rest)
    if cls in _CLASSIFIERS:
        fields.setdefault("num_classes", _classes(_params(variables)))
    if cls is Decoder and callable(fields.get("activation")):  # its config has names
        names = {function: name for name, function in ACTIVATIONS.items()}
        fields["activation"] = names[fields["activation"]]
    try:
        return cls.from_preset(preset, **fields) if preset else cls(**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"model {spec!r}: {error}.") from error


def takes_tokens(model: Any) -> bool:
    """Returns whether a model of lcjax.models takes tokens, which are integers."""
    return isinstance(model, _TEXT_MODELS)


def check_all_used(model: nn.Module, variables: Any, inputs: Sequence[Any]) -> None:
    """Raises unless a model runs and uses every leaf; Flax silently ignores the others.

    Args:
      model: a Flax module.
      variables: its variables, deep or compact.
      inputs: arguments of `model.init`; arrays or ShapeDtypeStructs.

    Raises:
      ValueError: unused leaves, as of a deeper network, or leaves of another shape than the inputs
        need; names some.
    """
    deep = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    modules = {path[:-1] for path in flatten(deep)}
    unused = [
        joined(path)
        for path in flatten(variables)
        if len(path) < 2 or _used_by(path) not in modules
    ]
    if unused:
        raise ValueError(
            f"checkpoint: got {len(unused)} leaves that {type(model).__name__} does not use, such "
            f"as {printable(', '.join(unused[:3]))}; give the model that was trained."
        )
    try:
        jax.eval_shape(model.apply, variables, *inputs)
    except FlaxError as error:
        shapes = ", ".join(str(leaf.shape[1:]) for leaf in inputs)
        raise ValueError(
            f"{type(model).__name__} cannot run the checkpoint on inputs of shape {shapes}: "
            f"{error}. Give the model and the input shapes that were trained."
        ) from error


def _used_by(leaf: LeafPath) -> LeafPath:
    """Returns the module of a leaf; for a bypass a Dense layer of the same pair."""
    *above, module = leaf[:-1]
    if module == "bypass":
        return (*above, "down")
    return (*above, re.sub(r"^bypass_(?=\d+$)", "dense_", str(module)))


def _fields(spec: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns the preset, or "", and the fields after it."""
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
                f"model {spec!r}, {key}: got {value}, expected a Python literal, such as 10, "
                '"mean", None or (256, 10).'
            ) from error
        if key == "activation" and isinstance(fields[key], str):
            if fields[key] not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(
                    f"model {spec!r}, activation: got {value}, expected one of {known}."
                )
            fields[key] = ACTIVATIONS[fields[key]]
    return preset, fields


def _params(variables: Any) -> Mapping[str, Any]:
    params = params_of(variables)
    return params if isinstance(params, Mapping) else {}


def _classes(params: Mapping[str, Any]) -> int | None:
    """Returns the number of classes: the width of the head or of the chain; None without one."""
    chain = params.get("mlp", {})
    last = max(
        (child for child in chain if child.startswith("dense_")), default="", key=natural_sort_key
    )
    head = params.get("head", chain.get(last, {}))
    return head["kernel"].shape[-1] if "kernel" in head else None


def _imported(module: str, attribute: str) -> Any:
    spec = f"{module}:{attribute}"
    found = imported(spec, f"one of {', '.join(_MODELS)}, or a module")
    if isinstance(found, type) or not (isinstance(found, nn.Module) or callable(found)):
        got = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"model {spec}: got {got}, expected a Flax module, such as {module}.model with "
            "model = Net(...), or a function apply(variables, *inputs)."
        )
    return found


def imported(spec: str, expected: str = "a module") -> Any:
    """Returns the attribute `MODULE:ATTRIBUTE` of a Python module, whose code runs.

    Args:
      spec: the module and the attribute.
      expected: what messages expect, before "that can be imported".

    Raises:
      ValueError: a text of another form, a module that cannot be imported or does not have the
        attribute.
    """
    module, _, attribute = spec.partition(":")
    if not module or not attribute:
        raise ValueError(f"model: got {spec!r}, expected MODULE:ATTRIBUTE of a Python module.")
    if "/" in module or module.endswith(".py"):
        raise ValueError(
            f"model: got {spec!r}, expected the module as Python imports it, not its file: "
            f"{'.'.join(Path(module).with_suffix('').parts)}:{attribute}."
        )
    try:
        with _working_directory_last():
            found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {spec}: {error}. Expected {expected} that can be imported, also from the "
            "working directory."
        ) from error
    except (Exception, SystemExit) as error:  # from the module's own code
        raise ValueError(
            f"model {spec}: importing {module} raised {type(error).__name__}: {error}."
        ) from error
    return found


@contextmanager
def _working_directory_last() -> Iterator[None]:
    """Adds the working directory to the end of Python's search path for modules."""
    here = str(Path.cwd())
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.reverse()  # remove the last entry, not an earlier one of the same name
        sys.path.remove(here)
        sys.path.reverse()
