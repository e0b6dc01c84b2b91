"""Small text files of unknown origin: bounded in size, strict JSON, one clear error.

A file may come from anybody: it is checked for its kind and its size before it is read, and for
its depth before it is parsed.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from lcjax._messages import printable

LARGEST = 16 * 2**20  # bytes of a JSON file, unless the caller says otherwise
DEEPEST = 100  # lists and objects inside one another
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def read_bounded(
    path: Path, *, largest: int = LARGEST, error: type[ValueError] = ValueError
) -> bytes:
    """Returns the bytes of a regular file; a larger one is not read.

    Args:
      path: of the file; links are followed.
      largest: size in bytes that is accepted.
      error: class to raise.

    Raises:
      OSError: when the file cannot be opened or is not there.
      ValueError: of the class `error`, for a directory, a pipe or a device, or a larger file.
    """
    try:
        found = os.stat(path)
    except ValueError as reason:  # a NUL in the name
        raise error(f"{printable(path)} is not a file name: {reason}. Give another.") from reason
    if not stat.S_ISREG(found.st_mode):  # to open a pipe waits for its writer
        raise error(f"{printable(path)} is not a regular file; wanted one. Give its path.")
    if found.st_size > largest:
        raise error(
            f"{printable(path)} has {found.st_size:,} bytes; expected at most {largest:,}. It is "
            "not a file of this kind: give the right one."
        )
    with open(path, "rb") as file:
        data = file.read(largest + 1)  # it may grow after it was looked at
    if len(data) > largest:
        raise error(f"{printable(path)} has over {largest:,} bytes; expected at most that many.")
    return data


def parse_json(
    data: str | bytes,
    where: object,
    *,
    error: type[ValueError] = ValueError,
    allow_nan: bool = False,
    deepest: int = DEEPEST,
) -> Any:
    """Returns what JSON text holds.

    Args:
      data: the text, or its bytes in UTF-8.
      where: what the error calls it, such as the file's path.
      error: class to raise.
      allow_nan: whether the text may hold NaN and Infinity, which Python writes and JSON lacks.
      deepest: most lists and objects inside one another.

    Raises:
      ValueError: of the class `error`, for text that is not UTF-8 or not JSON, a key that comes
        twice, a number that does not fit float64, NaN, or too deep nesting.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        _check_depth(text, deepest)
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=None if allow_nan else _refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as reason:
        raise error(
            f"{printable(where)} is not valid JSON: {printable(reason, longest=200)}. Expected a "
            "whole file as its program wrote it: copy it again."
        ) from reason


def read_json(
    path: Path,
    *,
    largest: int = LARGEST,
    error: type[ValueError] = ValueError,
    allow_nan: bool = False,
) -> dict[str, Any]:
    """Returns the object in a JSON file; see `read_bounded` and `parse_json`.

    Raises:
      OSError: when the file cannot be opened or is not there.
      ValueError: of the class `error`, for every other fault; names the file.
    """
    data = read_bounded(path, largest=largest, error=error)
    found = parse_json(data, path, error=error, allow_nan=allow_nan)
    if not isinstance(found, dict):
        raise error(f"{printable(path)}: got a JSON {kind_of(found)}, expected an object {{...}}.")
    return found


def kind_of(value: Any) -> str:
    """Returns what JSON calls a value's kind: object, array, string, number, boolean or null."""
    if value is None:
        return "null"
    kinds = {dict: "object", list: "array", tuple: "array", str: "string", bool: "boolean"}
    return kinds.get(type(value), "number")


def _check_depth(text: str, deepest: int) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > deepest:
            raise ValueError(f"over {deepest} lists and objects inside one another")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} comes twice in one object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:30]} is too large")
    return number
