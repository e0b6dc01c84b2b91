"""Which tensor fills which leaf of a model, and all that stands between the two."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import numpy as np

from lcjax._messages import printable
from lcjax.interop.errors import WeightsError
from lcjax.interop.layouts import Layout
from lcjax.interop.name_map import Names
from lcjax.interop.safetensors_file import FLOATS, Tensors
from lcjax.io.leaves import LeafPath
from lcjax.tree.paths import natural_sort_key

_UNSEEN = ("num_heads", "epsilon", "activation")  # fields that no shape shows
_LONGEST_LIST = 20

Places = Mapping[LeafPath, tuple[str, Layout]]


def plain_names(tensors: Tensors, names: Names, skip: Sequence[str]) -> dict[str, str]:
    """Returns the tensors to be used, plain name to the file's; buffers and skipped left out.

    Raises:
      ValueError: when a glob of `skip` matches nothing.
      WeightsError: when two tensors have one plain name.
    """
    for glob in skip:
        if not any(fnmatchcase(name, glob) for name in tensors.stored):
            raise ValueError(f"skip={glob!r} matches no tensor of {tensors.where}. Leave it out.")
    found: dict[str, str] = {}
    for name in tensors.stored:
        plain = names.plain(name)
        if names.is_buffer(plain) or any(fnmatchcase(name, glob) for glob in skip):
            continue
        if plain in found:
            raise WeightsError(
                f"{tensors.where}: {printable(found[plain])} and {printable(name)} are one tensor "
                "twice. Name one of them in skip=."
            )
        found[plain] = name
    for copy, original in names.tied.items():
        if copy in found and original not in found:  # a file keeps one of what is tied
            found[original] = found.pop(copy)
    return found


def below(leaf: LeafPath) -> str:
    """Returns a leaf's path below its collection."""
    return "/".join(map(str, leaf[1:]))


def places(names: Names, model: nn.Module, wanted: Mapping[LeafPath, Any]) -> Places:
    """Returns plain name and layout of every wanted leaf that is no slope.

    Raises:
      WeightsError: when the library has no tensor for a leaf; names it.
    """
    rules, found = names.rules(model), {}
    for leaf in wanted:
        if leaf[-1] == "slope":
            continue
        named = ((rule.name_for(below(leaf)), rule.layout) for rule in rules)
        place = next(((name, layout) for name, layout in named if name), None)
        if place is None:
            raise WeightsError(
                f"{below(leaf)}: {names.library}'s {names.model.__name__} has no such tensor. "
                "Build the model without it, or name it in fresh=."
            )
        found[leaf] = place
    return found


def mismatches(
    tensors: Tensors,
    names: Names,
    by_name: Mapping[str, str],
    wanted: Mapping[LeafPath, Any],
    at: Places,
    left_out: Sequence[str],
) -> list[str]:
    """Returns a line for every tensor that is missing, unexpected or not as the model wants it.

    Args:
      tensors: of the file.
      names: the table of its library.
      by_name: name in the file by plain name.
      wanted: the leaves to fill, abstract.
      at: place of each.
      left_out: plain names of tensors that no leaf is filled with, and that may be there.
    """
    lines, used = [], {*left_out, *names.tied}
    for leaf, (name, layout) in at.items():
        used.add(name)
        shape = wanted[leaf].shape
        if name not in by_name:
            lines.append(f"- missing: {name}, for {below(leaf)} {shape}")
            continue
        stored, asked = tensors.stored[by_name[name]], layout.stored(shape)
        if stored.shape != asked:
            lines.append(f"! {by_name[name]}: file {stored.shape}, model {asked}")
        elif stored.dtype not in FLOATS:
            lines.append(f"! {by_name[name]}: file {stored.dtype}, wanted one of {sorted(FLOATS)}")
    lines += [f"+ unexpected: {by_name[name]}" for name in by_name if name not in used]
    return sorted(dict.fromkeys(lines), key=natural_sort_key)


def untied(tensors: Tensors, names: Names, by_name: Mapping[str, str]) -> list[str]:
    """Returns a line for every tensor that should equal another, and does not."""
    lines = []
    for copy, original in names.tied.items():
        if copy in by_name and original in by_name:
            first, second = (tensors.read(by_name[name]) for name in (copy, original))
            if not np.array_equal(first, second, equal_nan=True):
                lines.append(f"! {by_name[copy]}: differs from {by_name[original]}, wanted equal")
    return lines


def config_differences(names: Names, config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Returns a line for every field that config and model do not share and no shape shows."""
    described, kind = names.described(config), config.get("model_type")
    if described is None and kind is not None and names.library == "Hugging Face":
        return [f"! model_type: config.json {printable(repr(kind), longest=60)}, which is another"]
    described, lines = described or {}, []
    for field in _UNSEEN:
        theirs, ours = described.get(field), getattr(model, field, None)
        same = _same_function(theirs, ours) if callable(theirs) else theirs == ours
        if theirs is not None and not same:
            lines.append(f"! {field}: config.json {theirs}, model {ours}")
    return lines


def difference_error(where: str, names: str, model: nn.Module, lines: Sequence[str]) -> Exception:
    """Returns the one error that lists all differences between a file and a model."""
    hidden = len(lines) - _LONGEST_LIST
    lines = [printable(line, longest=300) for line in lines]
    shown = [*lines[:_LONGEST_LIST], *([f"... and {hidden} more"] if hidden > 0 else [])]
    return WeightsError(
        f"{where}, read as {names} names it, is not what the {type(model).__name__} wants; they "
        f"differ at {len(lines)} places:\n" + "\n".join(shown) + "\nBuild the model as it was "
        "pretrained; name leaves to initialise in fresh=, tensors to leave out in skip=."
    )


def _same_function(first: Any, second: Any) -> bool:
    at = np.linspace(-3, 3, 25, dtype=np.float32)
    return np.allclose(first(at), second(at), rtol=0, atol=1e-6)
