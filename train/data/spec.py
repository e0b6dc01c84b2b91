"""What a checkpoint of a training run says of its data: fields of the right types."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

_LARGEST = 2**24


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


def _counts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_count, value))


def _ascending(value: Any) -> bool:
    return _counts(value) and value == sorted(set(value))


def _numbers(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(one) in (int, float) for one in value)
    return numbers and bool(value) and all(map(math.isfinite, value))


def _fractions(value: Any) -> bool:
    names = isinstance(value, dict) and value.keys() == {"validation", "test"}
    return names and all(type(one) is float and 0 < one < 1 for one in value.values())


def _vocabulary(value: Any) -> bool:
    names = isinstance(value, dict) and value.keys() in ({"characters"}, {"tokenizer"})
    return names and all(one and _text(one) for one in value.values())


def _module(value: Any) -> bool:
    return isinstance(value, dict)


def _optional(accepted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepted(value)


_FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "image": {
        "dataset": _text,
        "image_size": _optional(_count),
        "num_classes": _count,
        "mean": _numbers,
        "std": _numbers,
    },
    "text": {
        "dataset": _text,
        "test_file": _optional(_text),
        "class_names": _texts,
        "lengths": _ascending,
        "module": _module,
        "tokenizer": _text,
    },
    "language": {
        "dataset": _text,
        "tokens": _vocabulary,
        "context": _count,
        "stride": _count,
        "cut": _fractions,
        "module": _module,
    },
}


# What a classifier is made of; the rest is for those who ask for it.
_LEAST: Mapping[str, Collection[str]] = {
    "image": ("num_classes", "mean", "std"),
    "text": ("class_names", "module"),
    "language": ("module",),
}
ALL = frozenset(name for fields in _FIELDS.values() for name in fields)


def check_known(kind: Any, known: Any, needs: Collection[str] = ()) -> None:
    """Raises unless a checkpoint's metadata say what a run of its kind knows of its data.

    Args:
      kind: "image", "text" or "language".
      known: the metadata's "data".
      needs: fields that must be there, of those that the kind has, beside the module's.

    Raises:
      ValueError: names the first field that is missing, or is not what it must be.
    """
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"kind is {kind!r:.60}, expected one of {', '.join(_FIELDS)}")
    if not isinstance(known, dict):
        raise ValueError("data is not an object")
    for name, accepted in _FIELDS[kind].items():
        if name not in known and (name in needs or name in _LEAST[kind]):
            raise ValueError(f"data lacks {name}")
        if name in known and not accepted(known[name]):
            raise ValueError(f"{name} of data is {known[name]!r:.60}")
