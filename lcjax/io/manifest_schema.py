"""What a manifest may say: every value that is read from one is checked before it is used.

A checksum shows damage, not malice: who writes a file can seal any values.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from lcjax.io.containers import DEEPEST, DICT, KINDS, LIST, NONE, TUPLE, VARIABLE
from lcjax.io.leaves import DTYPES, LeafPath, joined

_MOST_AXES = 32  # that NumPy takes
_MOST_ELEMENTS = 2**48
_MOST_GAPS = 2**20  # in the lists of format 1, which wrote indices as keys of dicts as lists


class CheckpointError(ValueError):
    """A checkpoint is damaged, unfinished or of another kind, or is not what was asked for.

    The message names the checkpoint and what is wrong with it. Nothing has been restored.
    """


class DamagedError(CheckpointError):
    """A checkpoint is not what was written."""


def checksum(manifest: Any) -> int:
    """Returns the seal of a manifest."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def checked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a manifest with leaves by path and containers by path, all of them possible.

    Raises:
      ValueError: when one is not; names it.
    """
    leaves = {}
    for one in _listed(manifest, "leaves"):
        if not isinstance(one, dict):
            raise ValueError(f"a leaf is {_short(one)}, expected an object")
        path = _path(one.get("path"))
        if path in leaves or not path:
            raise ValueError(f"the leaf {joined(path)!r} comes twice, or has no name")
        leaves[path] = _leaf(path, one)
    if manifest["format"] == 1:
        kinds = {_path(path): DICT for path in _listed(manifest, "empty")}
    else:
        kinds = dict(_container(one) for one in _listed(manifest, "containers"))
    _check_tree(leaves, kinds, _MOST_GAPS if manifest["format"] == 1 else 0)
    if not isinstance(manifest.get("metadata"), dict):
        raise ValueError(f"metadata is {_short(manifest.get('metadata'))}, expected an object")
    if not isinstance(manifest.get("lcjax"), str):
        raise ValueError(f"lcjax is {_short(manifest.get('lcjax'))}, expected a version")
    known = {name: manifest[name] for name in ("format", "lcjax", "metadata")}
    return known | {"leaves": leaves, "containers": kinds}


def _listed(manifest: Mapping[str, Any], name: str) -> list[Any]:
    values = manifest.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{name} is {_short(values)}, expected a list")
    return values


def _path(keys: Any) -> LeafPath:
    if not isinstance(keys, list) or len(keys) > DEEPEST:
        raise ValueError(f"a path is {_short(keys)}, expected a list of at most {DEEPEST} keys")
    for key in keys:
        if not isinstance(key, str) and not _count(key):
            raise ValueError(f"a path is {_short(keys)}, expected strings and indices")
    return tuple(keys)


def _leaf(path: LeafPath, one: Mapping[str, Any]) -> dict[str, Any]:
    shape, dtype, crc32 = (one.get(name) for name in ("shape", "dtype", "crc32"))
    name = joined(path)
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(_count, shape)):
        raise ValueError(f"{name}: shape is {_short(shape)}, expected at most {_MOST_AXES} sizes")
    if math.prod(size or 1 for size in shape) > _MOST_ELEMENTS:
        raise ValueError(f"{name}: shape is {_short(shape)}, more than an array can hold")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name}: dtype is {_short(dtype)}, expected one that save takes")
    if crc32 is not None and not (_count(crc32) and crc32 < 2**32):
        raise ValueError(f"{name}: crc32 is {_short(crc32)}, expected a checksum")
    return {"path": path, "shape": tuple(shape), "dtype": dtype, "crc32": crc32}


def _container(one: Any) -> tuple[LeafPath, str]:
    if not isinstance(one, list) or len(one) != 2 or one[1] not in list(KINDS):
        raise ValueError(f"a container is {_short(one)}, expected a path and its kind")
    return _path(one[0]), one[1]


def _check_tree(leaves: Mapping[LeafPath, Any], kinds: Mapping[LeafPath, str], gaps: int) -> None:
    """Raises unless leaves and containers can be one tree, with so many gaps in its lists."""
    children: dict[LeafPath, set[str | int]] = {}
    for path in (*leaves, *kinds):
        for end in range(len(path), 0, -1):
            known = children.setdefault(path[: end - 1], set())
            if path[end - 1] in known:
                break
            known.add(path[end - 1])
    for path, keys in children.items():
        name, kind = joined(path) or "the root", kinds.get(path)
        if path in leaves or kind == NONE:
            raise ValueError(f"{name} is a leaf, or None, and holds others")
        indices = {key for key in keys if isinstance(key, int)}
        if kind == VARIABLE and keys != {"value"}:
            raise ValueError(f"{name} is a variable of {len(keys)} values")
        if kind in (LIST, TUPLE) or (kind is None and indices):
            gaps -= max(indices, default=-1) + 1 - len(indices)
            if len(indices) < len(keys) or gaps < 0:
                raise ValueError(f"{name} is a list with keys, or with gaps")
    for path, kind in kinds.items():
        if path in leaves or (kind == VARIABLE and path not in children):
            raise ValueError(f"{joined(path)} is said to be a {kind}")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
