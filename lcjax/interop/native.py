"""lcjax's own safetensors files, deep or compact: a tensor's name is the path of its leaf."""

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
from lcjax.errors import WeightsError
from lcjax.interop.safetensors_file import Tensors, import_safetensors
from lcjax.io.containers import DICT, assemble
from lcjax.io.leaves import LeafPath, describe, diff, empty_dicts, flatten, in_jax, joined, saveable
from lcjax.structure.chains.find import find_chains
from lcjax.validation.json_files import parse_json

_KEY = "lcjax"
_MAX_DEPTH = 100  # nested dicts in a file
_DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64"
    " complex64".split()
)


def save_safetensors(path: str | os.PathLike[str], variables: Any) -> None:
    """Writes variables, deep or compact, to a new safetensors file: all of it or nothing.

    A tensor is named by its path, `params/block_3/mlp/dense_0/kernel`; `load_safetensors(path)`
    restores the nested dicts bitwise. Use `lcjax.save` for arrays that are spread over processes,
    and to continue training.

    Args:
      path: the file to create, with its parent directories.
      variables: nested dicts of NumPy or JAX arrays of any shape; keys are strings without a slash;
        boxes are removed.

    Raises:
      FileExistsError: path exists; nothing is overwritten.
      TypeError: a leaf that is not an array of numbers, has a dtype that safetensors lacks, or is
        spread over processes; a key that is not a string.
      ValueError: a donated array; a key that is empty or contains a slash.
      ImportError: safetensors is missing: `pip install 'lcjax[interop]'`.

    Example:
      >>> import numpy as np, tempfile, lcjax.interop
      >>> from lcjax.interop import load_safetensors
      >>> path = tempfile.mkdtemp() + "/model.safetensors"
      >>> lcjax.interop.save_safetensors(path, {"params": {"dense": {"kernel": np.ones((2, 3))}}})
      >>> load_safetensors(path)["params"]["dense"]["kernel"].shape
      (2, 3)
    """
    save_file = import_safetensors("safetensors.numpy").save_file
    target = Path(path).expanduser()
    if target.exists():
        raise FileExistsError(
            f"{target} already exists; expected a new path. Choose another one, or move the old "
            "one away."
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


def written_by_lcjax(tensors: Tensors) -> bool:
    """Returns whether `save_safetensors` wrote the file."""
    return _KEY in tensors.metadata


def read_native(tensors: Tensors) -> dict[str, Any]:
    """Returns the nested dicts that `save_safetensors` was given.

    Leaves are JAX arrays, or NumPy arrays where JAX would narrow the dtype.

    Raises:
      WeightsError: names that are not paths, or a path that is both a leaf and a dict.
    """
    names = [tuple(name.split("/")) for name in tensors.stored]
    empty = _empty(tensors)
    _check_paths(tensors.where, [*names, *empty])
    leaves: dict[LeafPath, Any] = {
        tuple(name.split("/")): in_jax(tensors.read(name)) for name in tensors.stored
    }
    return assemble(leaves, dict.fromkeys(empty, DICT))


def _empty(tensors: Tensors) -> list[tuple[str, ...]]:
    """Returns the paths of empty dicts, which the header lists."""
    header = parse_json(tensors.metadata[_KEY], tensors.where, error=WeightsError)
    paths: Any = header.get("empty") if isinstance(header, dict) else None
    lists = isinstance(paths, list) and all(isinstance(path, list) for path in paths)
    if not lists or not all(isinstance(key, str) for path in paths for key in path):
        raise WeightsError(
            f"{tensors.where}, metadata {_KEY!r} of the header: expected the paths of empty dicts "
            "as lists of strings; write the file again with save_safetensors."
        )
    return [tuple(path) for path in paths]


def _check_paths(where: str, names: Sequence[tuple[str, ...]]) -> None:
    """Raises unless the paths are distinct and form one tree of dicts."""
    taken = set(names)
    for name in names:
        above = {name[:length] for length in range(1, min(len(name), _MAX_DEPTH + 1))}
        if len(name) > _MAX_DEPTH or not all(name) or not name or above & taken:
            shown = printable(joined(name) or "the empty path", longest=100)
            raise WeightsError(
                f"{where}: got the path {shown}, expected at most {_MAX_DEPTH} keys, none of them "
                "empty, and no leaf below another; write the file again with save_safetensors."
            )
    if len(taken) != len(names):
        raise WeightsError(f"{where}: a path is both a leaf and an empty dict; write it again.")


def differences(loaded: Mapping[LeafPath, Any], deep: Mapping[LeafPath, Any]) -> list[str]:
    """Returns a line for every leaf by which a tree cannot be a collapsed form of a deep tree.

    Inside chains a collapse removes leaves, changes widths and adds biases; the modules check
    those when they run.

    Args:
      loaded: the leaves of a file.
      deep: the leaves that the model's `init` creates, abstract.
    """
    chains = {chain.path for chain in find_chains(assemble(deep)["params"])}

    def in_chain(leaf: LeafPath) -> bool:
        return leaf[0] in ("params", "batch_stats") and joined(leaf[1:-2]) in chains

    ours, theirs = (
        {leaf: describe(value) for leaf, value in tree.items() if not in_chain(leaf)}
        for tree in (loaded, deep)
    )
    return diff(ours, theirs, "the file", "the model")


def _check_name(name: LeafPath) -> None:
    odd = [key for key in name if not isinstance(key, str) or not key or "/" in key]
    if odd or not name:
        expected = "nested dicts whose keys are non-empty strings without a slash"
        kind = TypeError if odd and not isinstance(odd[0], str) else ValueError
        raise kind(f"{joined(name) or 'variables'}: got the keys {name}, expected {expected}.")


def _on_host(name: LeafPath, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise TypeError(
            f"{joined(name)}: got an array spread over processes; save it with lcjax.save."
        )
    if leaf.dtype.name not in _DTYPES:
        raise TypeError(
            f"{joined(name)}: got {describe(leaf)}, expected a dtype that safetensors supports; "
            "cast it, or save it with lcjax.save."
        )
    return np.ascontiguousarray(leaf).reshape(leaf.shape)
