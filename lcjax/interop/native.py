"""Files of lcjax's own, deep or compact: a tensor's name is the path of its leaf."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np

from lcjax._messages import printable
from lcjax.interop.errors import WeightsError
from lcjax.interop.safetensors_file import Tensors, import_safetensors
from lcjax.io.leaves import LeafPath, describe, diff, empty_dicts, flatten, joined, nest, saveable
from lcjax.structure.chains import find_chains
from lcjax.validation.json_files import parse_json

_KEY = "lcjax"
_DEEPEST = 100  # dicts inside one another, in a file
_DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64"
    " complex64".split()
)


def save_safetensors(path: str | os.PathLike[str], variables: Any) -> None:
    """Writes variables, deep or compact, to a new safetensors file: all of it or nothing.

    A tensor is named by its path, `params/block_3/mlp/dense_0/kernel`; `load_safetensors(path)`
    gives back nested dicts with every leaf bit for bit. For arrays that are spread over processes,
    and to go on training, there is `lcjax.save`.

    Args:
      path: the file to make, with its folders.
      variables: nested dicts of NumPy or JAX arrays, keys being strings without a slash; boxes are
        taken off.

    Raises:
      FileExistsError: there is something at path: nothing is ever overwritten.
      TypeError: a leaf that is no array of numbers, or of a dtype that safetensors lacks, or spread
        over processes; a key of another kind.
      ValueError: a donated array; a key with a slash in it, or an empty one.
      ImportError: when the package safetensors is not installed.
    """
    save_file = import_safetensors("safetensors.numpy").save_file
    target = Path(path).expanduser()
    if target.exists():
        raise FileExistsError(
            f"{target} exists and nothing is ever overwritten: name another path, or move what is "
            "there."
        )
    leaves = {name: saveable(name, leaf) for name, leaf in flatten(variables).items()}
    for name in leaves:
        _check_name(name)
    arrays = {joined(name): _on_host(name, leaf) for name, leaf in leaves.items()}
    header = {"version": version("lcjax"), "empty": empty_dicts(variables)}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        save_file(arrays, unfinished, metadata={_KEY: json.dumps(header)})
        os.rename(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def is_own(tensors: Tensors) -> bool:
    """Tells whether `save_safetensors` wrote the file."""
    return _KEY in tensors.metadata


def read_own(tensors: Tensors) -> dict[str, Any]:
    """Returns the nested dicts that `save_safetensors` was given.

    Leaves are JAX arrays, but NumPy arrays where JAX would narrow the dtype.

    Raises:
      WeightsError: when the names are not paths, or of a leaf and of a dict both.
    """
    names = [tuple(name.split("/")) for name in tensors.stored]
    empty = _empty(tensors)
    _check_paths(tensors.where, [*names, *empty])
    leaves: dict[LeafPath, Any] = {}
    for name in tensors.stored:
        leaf = tensors.read(name)
        narrowed = jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
        leaves[tuple(name.split("/"))] = leaf if narrowed else jax.device_put(leaf)
    return nest(leaves | {path: {} for path in empty})


def _empty(tensors: Tensors) -> list[tuple[str, ...]]:
    """Returns the paths of the dicts without a leaf, which the header lists."""
    header = parse_json(tensors.metadata[_KEY], tensors.where, error=WeightsError)
    paths: Any = header.get("empty") if isinstance(header, dict) else None
    lists = isinstance(paths, list) and all(isinstance(path, list) for path in paths)
    if not lists or not all(isinstance(key, str) for path in paths for key in path):
        raise WeightsError(
            f"{tensors.where}: its header's {_KEY!r} does not list the empty dicts as lists of "
            "strings; save_safetensors did not write it. Write it again."
        )
    return [tuple(path) for path in paths]


def _check_paths(where: str, names: Sequence[tuple[str, ...]]) -> None:
    """Raises unless one tree of dicts has all of these paths, each once."""
    taken = set(names)
    for name in names:
        above = {name[:length] for length in range(1, min(len(name), _DEEPEST + 1))}
        if len(name) > _DEEPEST or not all(name) or not name or above & taken:
            shown = printable(joined(name) or "the empty path", longest=100)
            raise WeightsError(
                f"{where}: {shown} cannot be the path of a leaf: expected at most {_DEEPEST} keys, "
                "none of them empty, and no leaf below another. Write the file again by "
                "save_safetensors."
            )
    if len(taken) != len(names):
        raise WeightsError(f"{where}: a path is both a leaf and an empty dict. Write it again.")


def differences(held: Mapping[LeafPath, Any], deep: Mapping[LeafPath, Any]) -> list[str]:
    """Returns a line for every leaf that tells a tree from one that collapse makes of a deep tree.

    Inside chains leaves may be gone, Denses may have other widths and new biases; what fits
    there, the modules themselves check when they run.

    Args:
      held: the leaves of a file.
      deep: the leaves that the model's `init` makes, abstract.
    """
    chains = {chain.path for chain in find_chains(nest(deep)["params"])}

    def in_chain(leaf: LeafPath) -> bool:
        return leaf[0] in ("params", "batch_stats") and joined(leaf[1:-2]) in chains

    ours, theirs = (
        {leaf: describe(value) for leaf, value in tree.items() if not in_chain(leaf)}
        for tree in (held, deep)
    )
    return diff(ours, theirs, "the file", "the model")


def _check_name(name: LeafPath) -> None:
    odd = [key for key in name if not isinstance(key, str) or not key or "/" in key]
    if odd or not name:
        wanted = "nested dicts whose keys are strings that are not empty and hold no slash"
        kind = TypeError if odd and not isinstance(odd[0], str) else ValueError
        raise kind(f"{joined(name) or 'variables'}: got the keys {name}, wanted {wanted}.")


def _on_host(name: LeafPath, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise TypeError(f"{joined(name)} is spread over processes: save it by lcjax.save.")
    if leaf.dtype.name not in _DTYPES:
        raise TypeError(
            f"{joined(name)}: got {describe(leaf)}, a dtype that safetensors files cannot hold: "
            "cast it, or save it by lcjax.save."
        )
    return np.ascontiguousarray(leaf).reshape(leaf.shape)
