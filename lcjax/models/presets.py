"""Published sizes by name."""

from collections.abc import Mapping
from typing import Any


def named_fields(
    preset: str, sizes: Mapping[str, Mapping[str, Any]], model: str
) -> Mapping[str, Any]:
    """Returns the fields that a preset such as "base" stands for.

    Args:
      preset: a key of `sizes`.
      sizes: fields of each size.
      model: what the error calls the model.

    Raises:
      ValueError: when there is no such preset; lists the known.
    """
    if preset not in sizes:
        known = ", ".join(sizes)
        raise ValueError(f"{model} has no preset {preset!r}; wanted one of {known}.")
    return sizes[preset]
