"""Clients as installed: their modules without warnings, or a skip that names the package."""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest


def client(module: str, package: str) -> ModuleType:
    """Returns a module of a client; skips the test module where the package is not installed.

    With REQUIRE_CLIENTS set, as by `make test-clients`, a missing package is an error.

    Args:
      module: dotted name.
      package: the distribution on PyPI.
    """
    found = importlib.util.find_spec(module.partition(".")[0]) is not None
    if not found and not os.environ.get("REQUIRE_CLIENTS"):
        pytest.skip(f"needs {package}: make test-clients", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


@contextmanager
def tensorflow_named() -> Iterator[None]:
    """Lets kauldron, which gemma imports, name `tf.Tensor` in annotations without TensorFlow.

    Nothing that is tested here runs TensorFlow, whose wheel alone is 270 MB.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    module = ModuleType("tensorflow")
    module.Tensor = type("Tensor", (), {})
    sys.modules["tensorflow"] = module
    try:
        yield
    finally:
        del sys.modules["tensorflow"]
