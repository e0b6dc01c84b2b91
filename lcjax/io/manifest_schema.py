"""The schema of a manifest: every value is validated before it is used.

A checksum detects damage, not tampering: the author of a file can give any values a valid one.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from lcjax.io.containers import DICT, KINDS, LIST, MAX_DEPTH, NONE, TUPLE, VARIABLE
from lcjax.io.leaves import DTYPES, LeafPath, joined

_MAX_AXES = 32  # in every version of NumPy
_MAX_ELEMENTS = 2**48
_MAX_GAPS = 2**20  # in lists of format 1, which also wrote dicts with indices as lists


def checksum(manifest: Any) -> int:
    """Returns the checksum of a manifest."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def parse_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a validated manifest, with leaves by path and containers by path.

    Raises:
      ValueError: names the first invalid value.
    """
    leaves = {}
    for one in _listed(manifest, "leaves"):
        if not isinstance(one, dict):
            raise ValueError(f"leaf: got {_short(one)}, expected an object")
        path = _path(one.get("path"))
        if path in leaves or not path:
            raise ValueError(f"leaf {joined(path)!r}: expected a unique path that is not empty")
        leaves[path] = _leaf(path, one)
    if manifest["format"] == 1:
        kinds = {_path(path): DICT for path in _listed(manifest, "empty")}
    else:
        kinds = dict(_container(one) for one in _listed(manifest, "containers"))
    _check_tree(leaves, kinds, _MAX_GAPS if manifest["format"] == 1 else 0)
    if not isinstance(manifest.get("metadata"), dict):
        raise ValueError(f"metadata: got {_short(manifest.get('metadata'))}, expected an object")
    if not isinstance(manifest.get("lcjax"), str):
        raise ValueError(f"lcjax: got {_short(manifest.get('lcjax'))}, expected a version")
    known = {name: manifest[name] for name in ("format", "lcjax", "metadata")}
    return known | {"leaves": leaves, "containers": kinds}


def _listed(manifest: Mapping[str, Any], name: str) -> list[Any]:
    values = manifest.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{name}: got {_short(values)}, expected a list")
    return values


def _path(keys: Any) -> LeafPath:
    if not isinstance(keys, list) or len(keys) > MAX_DEPTH:
        raise ValueError(f"path: got {_short(keys)}, expected a list of at most {MAX_DEPTH} keys")
    for key in keys:
        if not isinstance(key, str) and not _count(key):
            raise ValueError(f"path: got {_short(keys)}, expected strings and indices")
    return tuple(keys)


def _leaf(path: LeafPath, one: Mapping[str, Any]) -> dict[str, Any]:
    shape, dtype, crc32 = (one.get(name) for name in ("shape", "dtype", "crc32"))
    name = joined(path)
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(map(_count, shape)):
        raise ValueError(f"{name}, shape: got {_short(shape)}, expected at most {_MAX_AXES} sizes")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise ValueError(f"{name}, shape: got {_short(shape)}, expected the size of an array")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name}, dtype: got {_short(dtype)}, expected one of lcjax.save")
    if crc32 is not None and not (_count(crc32) and crc32 < 2**32):
        raise ValueError(f"{name}, crc32: got {_short(crc32)}, expected a checksum")
    return {"path": path, "shape": tuple(shape), "dtype": dtype, "crc32": crc32}


def _container(one: Any) -> tuple[LeafPath, str]:
    if not isinstance(one, list) or len(one) != 2 or one[1] not in list(KINDS):
        raise ValueError(f"container: got {_short(one)}, expected a path and a kind")
    return _path(one[0]), one[1]


def _check_tree(leaves: Mapping[LeafPath, Any], kinds: Mapping[LeafPath, str], gaps: int) -> None:
    """Raises unless leaves and containers form a tree with at most `gaps` gaps in its lists."""
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
            raise ValueError(f"{name}: got children of a leaf or None")
        indices = {key for key in keys if isinstance(key, int)}
        if kind == VARIABLE and keys != {"value"}:
            raise ValueError(f"{name}: got a variable of {len(keys)} values, expected 1")
        if kind in (LIST, TUPLE) or (kind is None and indices):
            gaps -= max(indices, default=-1) + 1 - len(indices)
            if len(indices) < len(keys) or gaps < 0:
                raise ValueError(f"{name}: got a list with keys or gaps")
    for path, kind in kinds.items():
        if path in leaves or (kind == VARIABLE and path not in children):
            raise ValueError(f"{joined(path)}: got the kind {kind}, which it cannot have")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
