"""Configurations from the JSON of a run's directory, whose origin is unknown: types are checked."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax.validation.json_files import kind_of
from train.config.base import AnyConfig
from train.config.old_runs import upgraded
from train.config.protocol import convert_protocol
from train.validation import ConfigError


def config_from_json(like: AnyConfig, fields: Any) -> AnyConfig:
    """Returns the configuration in a run's config.json, which an earlier version may have written.

    Args:
      like: the preset's configuration.
      fields: the object in config.json, or some of its sections.

    Raises:
      ConfigError: as `restored`; or if the protocol is unknown.
    """
    current = upgraded(fields) if isinstance(fields, dict) else fields
    if isinstance(current, dict):
        current = {name: value for name, value in current.items() if name != "kind"}
        protocol = current.get("protocol")
        if isinstance(protocol, dict) and isinstance(protocol.get("protocol"), str):
            chosen = convert_protocol(like.protocol, protocol["protocol"])
            like = dataclasses.replace(like, protocol=chosen)
    return restored(like, current)


def restored(like: Any, fields: Any, *above: str) -> Any:
    """Returns a configuration with the values of the JSON fields.

    A missing field with a default, such as one of a later version, keeps its value in `like`.

    Args:
      like: a configuration of the same classes.
      fields: from `train.config.base.as_json`.
      *above: names of the enclosing sections, for messages.

    Raises:
      ConfigError: if a value is not of its field's type, or a field is missing or unknown; names
        the field.
    """
    if not isinstance(fields, dict):
        name = ".".join(above) or "the configuration"
        raise ConfigError(f"{name} is a JSON {kind_of(fields)}, expected an object.")
    hints, values = typing.get_type_hints(type(like)), {}
    known = {field.name for field in dataclasses.fields(like)}
    if unknown := fields.keys() - known:
        shown = printable(".".join((*above, min(unknown))), longest=100)
        raise ConfigError(f"{shown} is not a known field; expected a run of this version of lcjax.")
    for field in dataclasses.fields(like):
        if field.name not in fields:
            if field.default is dataclasses.MISSING and above:
                raise ConfigError(f"{'.'.join((*above, field.name))} is missing; expected it.")
            continue
        value, old = fields[field.name], getattr(like, field.name)
        here = (*above, field.name)
        if dataclasses.is_dataclass(old):
            values[field.name] = restored(old, value, *here)
            continue
        found = _typed(hints[field.name], value)
        if found is _WRONG:
            shown = printable(repr(value), longest=60)
            raise ConfigError(
                f"{'.'.join(here)} is {shown}, a JSON {kind_of(value)}, expected {_name(old)}. "
                "Restore the run's config.json."
            )
        values[field.name] = found
    return dataclasses.replace(like, **values)


_WRONG = object()


def _typed(hint: Any, value: Any) -> Any:
    """Returns a JSON value as the hinted type; `_WRONG` if it is of another."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        same = (value == one and type(value) is type(one) for one in arguments)
        return value if any(same) else _WRONG
    if origin in (typing.Union, types.UnionType):
        found = (_typed(one, value) for one in arguments)
        return next((one for one in found if one is not _WRONG), _WRONG)
    if origin is tuple:
        if not isinstance(value, list):
            return _WRONG
        items = [_typed(arguments[0], one) for one in value]
        return _WRONG if any(one is _WRONG for one in items) else tuple(items)
    if hint is Path:
        return Path(value) if isinstance(value, str) and "\0" not in value else _WRONG
    if hint is type(None):
        return None if value is None else _WRONG
    if hint is float and type(value) is int:
        return value if abs(value) < 2**53 else _WRONG
    return value if hint in (int, float, bool, str) and type(value) is hint else _WRONG


def _name(old: Any) -> str:
    return f"a value such as {str(old)!r}" if isinstance(old, Path) else f"a value such as {old!r}"


def booleans_of(config: Any, other: Any, unless: Any = None) -> Any:
    """Returns a configuration with another one's booleans.

    Args:
      config: a frozen dataclass of such dataclasses.
      other: of the same classes.
      unless: if given, a boolean of config that differs from this one's is kept.
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
