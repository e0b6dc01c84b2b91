"""Assigns tensors of a file to leaves of a model, and lists the differences between the two."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import numpy as np

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.interop.layouts import Layout
from lcjax.interop.name_map import NameMap
from lcjax.interop.safetensors_file import FLOATS, Tensors
from lcjax.io.leaves import LeafPath
from lcjax.tree.paths import natural_sort_key

_NOT_IN_SHAPES = (
    *("num_heads", "epsilon", "activation", "pooler_activation", "position_offset"),
    *("window", "global_every", "theta", "local_theta", "head_activation"),
)
_LONGEST_LIST = 20

# Parts of tensors as GPTQ, AWQ, bitsandbytes, FP8 and compressed-tensors store them.
_QUANTIZED = re.compile(
    r".*\.(qweight|qzeros|weight_scale(_inv)?|weight_packed|SCB|weight\.(absmax|quant_state\..*))"
)

Assignment = Mapping[LeafPath, tuple[str, Layout]]


def plain_names(
    tensors: Tensors, names: NameMap, model: nn.Module, ignore: Sequence[str]
) -> dict[str, str]:
    """Returns the name in the file of each tensor to use, by plain name.

    Raises:
      ValueError: a glob in `ignore` that matches nothing.
      WeightsError: two tensors with the same plain name.
    """
    for glob in ignore:
        if not any(fnmatchcase(name, glob) for name in tensors.stored):
            raise ValueError(
                f"ignore: got {glob!r}, which matches no tensor of {tensors.where}; leave it out."
            )
    found: dict[str, str] = {}
    for name in tensors.stored:
        plain = names.plain(name)
        if names.is_buffer(plain) or any(fnmatchcase(name, glob) for glob in ignore):
            continue
        if plain in found:
            raise WeightsError(
                f"{tensors.where}: {printable(found[plain])} and {printable(name)} are the same "
                "tensor; name one of them in ignore=."
            )
        found[plain] = name
    for copy, original in names.tied(model).items():
        if copy in found and original not in found:  # the file has one of two tied tensors
            found[original] = found.pop(copy)
    return found


def check_not_quantized(tensors: Tensors) -> None:
    """Raises a WeightsError that names the first part of a quantized tensor, if there is one."""
    for name in tensors.stored:
        if _QUANTIZED.fullmatch(name):
            raise WeightsError(
                f"{tensors.where}: got {printable(name, longest=100)}, part of a quantized tensor "
                "(GPTQ, AWQ, bitsandbytes or FP8), expected float weights; load the original "
                "checkpoint, or dequantize this one with its own library."
            )


def path_in_collection(leaf: LeafPath) -> str:
    """Returns a leaf's path without its collection, `params`."""
    return "/".join(map(str, leaf[1:]))


def assign_tensors(
    names: NameMap, model: nn.Module, expected: Mapping[LeafPath, Any]
) -> Assignment:
    """Returns the plain tensor name and the layout of every leaf except slopes.

    Raises:
      WeightsError: the library has no tensor for a leaf; names it.
    """
    rules, found = names.rules(model), {}
    for leaf in expected:
        if leaf[-1] == "slope":
            continue
        named = ((rule.name_for(path_in_collection(leaf)), rule.layout) for rule in rules)
        place = next(((name, layout) for name, layout in named if name), None)
        if place is None:
            raise WeightsError(
                f"{path_in_collection(leaf)}: the {names.model.__name__} of {names.library} has no "
                "such tensor; build the model without it, or name it in init=."
            )
        found[leaf] = place
    return found


def mismatches(
    tensors: Tensors,
    by_name: Mapping[str, str],
    expected: Mapping[LeafPath, Any],
    at: Assignment,
    left_out: Sequence[str],
) -> list[str]:
    """Returns a line for every tensor that is missing, unexpected or of another shape or dtype.

    Args:
      tensors: the tensors of the file.
      by_name: name in the file by plain name.
      expected: the leaves to fill, abstract.
      at: plain tensor name and layout of each leaf.
      left_out: plain names of tensors that may be present and are not used.
    """
    lines, used = [], set(left_out)
    for leaf, (name, layout) in at.items():
        used.add(name)
        shape = expected[leaf].shape
        if name not in by_name:
            lines.append(f"- missing: {name}, for {path_in_collection(leaf)} {shape}")
            continue
        stored, shape_in_file = tensors.stored[by_name[name]], layout.stored(shape)
        if stored.shape != shape_in_file:
            lines.append(f"! {by_name[name]}: file {stored.shape}, model {shape_in_file}")
        elif stored.dtype not in FLOATS:
            lines.append(
                f"! {by_name[name]}: file {stored.dtype}, expected one of {sorted(FLOATS)}"
            )
    lines += [f"+ unexpected: {by_name[name]}" for name in by_name if name not in used]
    return sorted(dict.fromkeys(lines), key=natural_sort_key)


def tied_differences(
    tensors: Tensors, tied: Mapping[str, str], by_name: Mapping[str, str]
) -> list[str]:
    """Returns a line for every tied tensor that differs from its original."""
    lines = []
    for copy, original in tied.items():
        if copy in by_name and original in by_name:
            first, second = (tensors.read(by_name[name]) for name in (copy, original))
            if not np.array_equal(first, second, equal_nan=True):
                lines.append(f"! {by_name[copy]}: differs from {by_name[original]}, expected equal")
    return lines


def config_differences(names: NameMap, config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Returns a line for every differing field of config and model that no shape shows."""
    described, kind = names.fields(config), config.get("model_type")
    if described is None and kind is not None and names.library == "Hugging Face":
        return [
            f"! model_type: config.json {printable(repr(kind), longest=60)}, another architecture"
        ]
    described, lines = described or {}, []
    if "config" in described:
        ours = asdict(vars(model)["config"])
        return [
            f"! {field}: config.json {theirs}, model {ours[field]}"
            for field, theirs in asdict(described["config"]).items()
            if theirs != ours[field]
        ]
    for field in _NOT_IN_SHAPES:
        theirs, ours = described.get(field), getattr(model, field, None)
        same = _same_function(theirs, ours) if callable(theirs) else theirs == ours
        if theirs is not None and not same:
            lines.append(f"! {field}: config.json {theirs}, model {ours}")
    return lines


def difference_error(where: str, library: str, model: nn.Module, lines: Sequence[str]) -> Exception:
    """Returns the error that lists all differences between a file and a model."""
    hidden = len(lines) - _LONGEST_LIST
    lines = [printable(line, longest=300) for line in lines]
    shown = [*lines[:_LONGEST_LIST], *([f"... and {hidden} more"] if hidden > 0 else [])]
    return WeightsError(
        f"{where}: the file, with the names of {library}, and the {type(model).__name__} differ at "
        f"{len(lines)} places:\n" + "\n".join(shown) + "\nBuild the model as it was pretrained; "
        "name leaves to initialise in init=, tensors to leave out in ignore=."
    )


def _same_function(first: Any, second: Any) -> bool:
    at = np.linspace(-3, 3, 25, dtype=np.float32)
    return np.allclose(first(at), second(at), rtol=0, atol=1e-6)
