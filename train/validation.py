"""Range checks of flags; the message names the flag, its value and the accepted range."""

import math
from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """A flag is out of range, or flags contradict one another."""


def require(owner: Any, name: str, accepted: Callable[[Any], bool], expected: str) -> None:
    """Raises ConfigError unless a field's value is accepted.

    Args:
      owner: section of the configuration.
      name: of the field, which is also the flag's name.
      accepted: returns whether a value is in range.
      expected: the range in words; ends the message.
    """
    value = getattr(owner, name)
    if not accepted(value):
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected {expected}.")


def positive(value: float) -> bool:
    """Returns whether a number is above 0 and finite."""
    return 0 < value < math.inf
