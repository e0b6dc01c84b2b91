"""Pretrained weights into a model: every tensor of a file used, every leaf of the model filled."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.interop.bert import BERT_NAMES
from lcjax.interop.errors import WeightsError
from lcjax.interop.gpt2 import GPT2_NAMES
from lcjax.interop.names import Names
from lcjax.interop.source import Source, find_files, find_source, read_config
from lcjax.interop.tensors import FLOATS, Tensors, open_tensors
from lcjax.leaves import LeafPath, flatten, nest
from lcjax.paths import natural

_TABLES = (BERT_NAMES, GPT2_NAMES)
_UNSEEN = ("num_heads", "epsilon", "activation")  # fields that no shape shows
_LONGEST_LIST = 20

Globs = str | Sequence[str]


def load_safetensors(
    source: Source,
    model: nn.Module,
    *,
    fresh: Globs = (),
    skip: Globs = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns variables of a model with the weights that another library saved; slopes are 0.

    Every tensor is used, and every leaf filled, or nothing is loaded: one error lists what is
    missing, unexpected or of another shape. Files are mapped into memory and read tensor by
    tensor; float16, bfloat16 and float64 are cast to the model's float32.

    Args:
      source: a safetensors file; a folder with one, or with an index of several, whose config.json
        is then held against the model; an installed Python package that ships such a folder; or
        the id of a Hugging Face repository.
      model: of lcjax.models.
      fresh: globs of leaves, `head/*`, that are initialised and not loaded, in the file or not: a
        head for other classes.
      skip: globs of tensors of the file, `cls.*`, that are left out.
      key: random key for the fresh leaves.

    Raises:
      FileNotFoundError: when there is no such source.
      WeightsError: when a file is damaged, or its tensors or config are not the model's.
      ValueError: a glob that matches nothing; fresh leaves without a key.
      TypeError: a model that is none of lcjax.models with pretrained weights.
      ImportError: when the package safetensors is not installed.
    """
    path = find_source(source)
    with open_tensors(find_files(path)) as tensors:
        names = _table(tensors, model)
        by_name = _plain_names(tensors, names, _globs(skip))
        inputs = names.inputs(model, {n: tensors.stored[full] for n, full in by_name.items()})
        wanted = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
        new = _chosen(wanted, _globs(fresh))
        if new and key is None:
            raise ValueError(f"fresh={fresh!r} initialises leaves: give the random key, key=.")
        config = read_config(path)
        lines = _differences(names, config, model) if config else []
        lines += _untied(tensors, names, by_name)
        lines += _mismatches(tensors, names, by_name, wanted, new)
        if lines:
            raise _error(tensors.where, names, model, lines)
        leaves = {
            leaf: _read(tensors, names, by_name, leaf, shape)
            for leaf, shape in wanted.items()
            if leaf not in new
        }
    if new:
        leaves |= _initialised(model, inputs, new, key)
    return nest({leaf: leaves[leaf] for leaf in wanted})


def model_from(source: Source, **fields: Any) -> nn.Module:
    """Returns the model that the config.json of a source describes.

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
    for names in _TABLES:
        if described := _fields(names, config):
            return names.model(**(described | fields))
    raise WeightsError(
        f"{path}/config.json describes a {config.get('model_type')!r}; wanted one of {_known()}."
    )


def _known() -> str:
    return ", ".join(sorted({names.model.__name__ for names in _TABLES}))


def _globs(globs: Globs) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


def _table(tensors: Tensors, model: nn.Module) -> Names:
    """Returns the table of the file's library, once sure that it is of the model's architecture."""
    if not any(isinstance(model, names.model) for names in _TABLES):
        raise TypeError(f"load_safetensors got a {type(model).__name__}; wanted one of {_known()}.")
    for names in _TABLES:
        if names.marker in {names.plain(name) for name in tensors.stored}:
            if isinstance(model, names.model):
                return names
            raise WeightsError(
                f"{tensors.where} holds a {names.model.__name__} of {names.library}, the model is "
                f"a {type(model).__name__}. Load it into a lcjax.models.{names.model.__name__}."
            )
    first = ", ".join(sorted(tensors.stored, key=natural)[:5]) or "no tensors"
    raise WeightsError(
        f"{tensors.where} holds none of {_known()} as a library known here names them; it begins "
        f"with {first}."
    )


def _plain_names(tensors: Tensors, names: Names, skip: Sequence[str]) -> dict[str, str]:
    """Returns the tensors to be used, plain name to the file's; buffers and skipped left out."""
    for glob in skip:
        if not any(fnmatchcase(name, glob) for name in tensors.stored):
            raise ValueError(f"skip={glob!r} matches no tensor of {tensors.where}. Leave it out.")
    found: dict[str, str] = {}
    for name in tensors.stored:
        plain = names.plain(name)
        if names.is_buffer(plain) or any(fnmatchcase(name, glob) for glob in skip):
            continue
        if plain in found:
            raise WeightsError(f"{tensors.where}: {found[plain]} and {name} are one tensor twice.")
        found[plain] = name
    return found


def _below(leaf: LeafPath) -> str:
    """Returns a leaf's path below its collection."""
    return "/".join(map(str, leaf[1:]))


def _chosen(wanted: Mapping[LeafPath, Any], fresh: Sequence[str]) -> set[LeafPath]:
    for glob in fresh:
        if not any(fnmatchcase(_below(leaf), glob) for leaf in wanted):
            raise ValueError(f"fresh={glob!r} matches no leaf of the model, such as head/kernel.")
    return {leaf for leaf in wanted if any(fnmatchcase(_below(leaf), glob) for glob in fresh)}


def _fields(names: Names, config: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return names.fields(config)
    except KeyError as error:
        raise WeightsError(f"config.json: {error} is not there, or of no value known.") from error


def _differences(names: Names, config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Returns a line for every field that config and model do not share and no shape shows."""
    described = _fields(names, config) or {}
    lines = []
    for field in _UNSEEN:
        theirs, ours = described.get(field), getattr(model, field, None)
        same = _same_function(theirs, ours) if callable(theirs) else theirs == ours
        if theirs is not None and not same:
            lines.append(f"! {field}: config.json {theirs}, model {ours}")
    return lines


def _same_function(first: Any, second: Any) -> bool:
    at = np.linspace(-3, 3, 25, dtype=np.float32)
    return np.allclose(first(at), second(at), rtol=0, atol=1e-6)


def _mismatches(
    tensors: Tensors,
    names: Names,
    by_name: Mapping[str, str],
    wanted: Mapping[LeafPath, Any],
    new: set[LeafPath],
) -> list[str]:
    """Returns a line for every tensor that is missing, unexpected or not as the model wants it."""
    lines, used = [], set(names.tied)
    for leaf, shape in wanted.items():
        if leaf[-1] == "slope":
            continue
        name, layout = _rule(names, leaf)
        used.add(name)
        if leaf in new:
            continue
        if name not in by_name:
            lines.append(f"- missing: {name}, for {_below(leaf)} {shape.shape}")
            continue
        stored, asked = tensors.stored[by_name[name]], layout.stored(shape.shape)
        if stored.shape != asked:
            lines.append(f"! {by_name[name]}: file {stored.shape}, model {asked}")
        elif stored.dtype not in FLOATS:
            lines.append(f"! {by_name[name]}: file {stored.dtype}, wanted floating point")
    lines += [f"+ unexpected: {by_name[name]}" for name in by_name if name not in used]
    return sorted(dict.fromkeys(lines), key=natural)


def _untied(tensors: Tensors, names: Names, by_name: Mapping[str, str]) -> list[str]:
    """Returns a line for every tensor that should equal another, and does not."""
    lines = []
    for copy, original in names.tied.items():
        if copy in by_name and original in by_name:
            first, second = (tensors.read(by_name[name]) for name in (copy, original))
            if not np.array_equal(first, second):
                lines.append(f"! {by_name[copy]}: differs from {by_name[original]}, wanted equal")
    return lines


def _rule(names: Names, leaf: LeafPath) -> Any:
    found = names.find(_below(leaf))
    if found is None:
        raise WeightsError(
            f"{_below(leaf)}: {names.library}'s {names.model.__name__} has no such tensor. Build "
            "the model without it."
        )
    return found


def _error(where: str, names: Names, model: nn.Module, lines: Sequence[str]) -> WeightsError:
    hidden = len(lines) - _LONGEST_LIST
    shown = [*lines[:_LONGEST_LIST], *([f"... and {hidden} more"] if hidden > 0 else [])]
    return WeightsError(
        f"{where} is not what the {type(model).__name__} wants, read as {names.library} names it; "
        f"they differ at {len(lines)} places:\n" + "\n".join(shown) + "\nBuild the model as it was "
        "pretrained; name leaves to initialise in fresh=, tensors to leave out in skip=."
    )


def _read(
    tensors: Tensors, names: Names, by_name: Mapping[str, str], leaf: LeafPath, shape: Any
) -> jax.Array:
    if leaf[-1] == "slope":
        return jnp.zeros(shape.shape, shape.dtype)
    name, layout = _rule(names, leaf)
    value = layout.read(tensors.read(by_name[name]), shape.shape)
    return jnp.asarray(np.ascontiguousarray(value, shape.dtype))


def _initialised(
    model: nn.Module, inputs: Any, new: set[LeafPath], key: jax.Array | None
) -> dict[LeafPath, jax.Array]:
    """Returns the new leaves as `init` makes them; the rest is not even computed."""

    def init(key: jax.Array) -> dict[LeafPath, jax.Array]:
        leaves = flatten(model.init(key, jnp.zeros(inputs.shape, inputs.dtype)))
        return {leaf: leaves[leaf] for leaf in sorted(new)}

    return jax.jit(init)(key)
