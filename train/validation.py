"""Ranges of flags: what is out of one is named with its value and what was wanted."""

import math
from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """A flag has a value that no run can have."""


def require(owner: Any, name: str, accepted: Callable[[Any], bool], wanted: str) -> None:
    """Raises ConfigError unless a field's value is accepted.

    Args:
      owner: a section of the configuration.
      name: of the field; the flag is called alike.
      accepted: tells of a value whether it may be.
      wanted: ends the message, in words.
    """
    value = getattr(owner, name)
    if not accepted(value):
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; wanted {wanted}.")


def positive(value: float) -> bool:
    """Returns whether a number is above 0 and finite."""
    return 0 < value < math.inf
