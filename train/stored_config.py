"""Configurations that runs keep: read again, and what a resumed run is asked to do otherwise."""

import dataclasses
import typing
from pathlib import Path
from typing import Any


def restored(like: Any, fields: dict[str, Any]) -> Any:
    """Returns a configuration with the values that `train.config.as_json` made JSON of.

    Args:
      like: a configuration of the same classes.
      fields: what as_json returned.
    """
    hints, values = typing.get_type_hints(type(like)), {}
    for field in dataclasses.fields(like):
        if field.name not in fields:
            continue
        value, old = fields[field.name], getattr(like, field.name)
        if dataclasses.is_dataclass(old):
            value = restored(old, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and _may_be_path(hints[field.name]):
            value = Path(value)
        values[field.name] = value
    return dataclasses.replace(like, **values)


def _may_be_path(hint: Any) -> bool:
    return hint is Path or Path in typing.get_args(hint)


def booleans_of(config: Any, other: Any, unless: Any = None) -> Any:
    """Returns a configuration with another's booleans.

    Args:
      config: a frozen dataclass of such dataclasses.
      other: of the same classes.
      unless: where it is given, a boolean that differs from its own stays as it is in config.
    """
    changed = {}
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(other, field.name)
        base = None if unless is None else getattr(unless, field.name)
        if dataclasses.is_dataclass(ours):
            changed[field.name] = booleans_of(ours, theirs, base)
        elif isinstance(ours, bool) and (unless is None or ours == base):
            changed[field.name] = theirs
    return dataclasses.replace(config, **changed)
