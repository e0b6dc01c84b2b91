"""Packages that only some uses need."""

from importlib import import_module
from typing import Any


def import_optional(package: str, use: str, install: str) -> Any:
    """Returns a package that may not be installed.

    Args:
      package: its name.
      use: what it is for, as a sentence without the full stop.
      install: what to give to pip.

    Raises:
      ImportError: when it is not installed; says how to.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{use}: pip install {install!r}.") from error
