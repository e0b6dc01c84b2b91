"""Checks the description of the data in the metadata of a run's checkpoint."""

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


def _image_shape(value: Any) -> bool:
    return _counts(value) and len(value) == 3 and value[-1] in (1, 3, 4)


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
        "image_shape": _image_shape,
        "class_names": _texts,
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


# Fields that every classifier needs; callers ask for others.
_LEAST: Mapping[str, Collection[str]] = {
    "image": ("num_classes", "mean", "std"),
    "text": ("class_names", "module"),
    "language": ("module",),
}
# What the data can be read again with; earlier runs on images did not save the other two.
ALL = frozenset(name for fields in _FIELDS.values() for name in fields) - {
    "class_names",
    "image_shape",
}


def check_data_spec(kind: Any, data_spec: Any, needs: Collection[str] = ()) -> None:
    """Raises unless a checkpoint's metadata describe data of their kind.

    Args:
      kind: "image", "text" or "language".
      data_spec: "data" of the metadata.
      needs: fields that must exist if the kind has them, besides those of the classifier.

    Raises:
      ValueError: names the first field that is missing or invalid.
    """
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"kind is {kind!r:.60}, expected one of {', '.join(_FIELDS)}")
    if not isinstance(data_spec, dict):
        raise ValueError("data is not an object")
    for name, accepted in _FIELDS[kind].items():
        if name not in data_spec and (name in needs or name in _LEAST[kind]):
            raise ValueError(f"data lacks {name}")
        if name in data_spec and not accepted(data_spec[name]):
            raise ValueError(f"{name} of data is {data_spec[name]!r:.60}")
