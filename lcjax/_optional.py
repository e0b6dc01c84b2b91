"""Imports of optional dependencies."""

from importlib import import_module
from typing import Any


def import_optional(package: str, use: str, install: str) -> Any:
    """Returns a package that may not be installed.

    Args:
      package: its name.
      use: its purpose, as a sentence without the full stop.
      install: the requirement to install with pip.

    Raises:
      ImportError: if it is not installed; says how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{use}: pip install {install!r}.") from error
