"""Fails the build when a public name of lcjax has no entry in the API reference."""

import importlib
import inspect

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import lcjax

_LOG = logging.getLogger(__name__)


def public_names() -> list[tuple[str, str]]:
    """Returns (package, name) of everything in `__all__` of the public packages."""
    inner = [name for name in lcjax.__all__ if inspect.ismodule(getattr(lcjax, name))]
    packages = ["lcjax", "lcjax.nn", *(f"lcjax.{name}" for name in inner)]
    return [
        (package, name) for package in packages for name in importlib.import_module(package).__all__
    ]


def undocumented(documented: set[str]) -> list[str]:
    """Returns the public names without an entry, also none under another public name.

    Args:
      documented: full names of the entries.
    """
    names = public_names()
    objects = [getattr(importlib.import_module(package), name) for package, name in names]
    full = [f"{package}.{name}" for package, name in names]
    present = [thing for name, thing in zip(full, objects, strict=True) if name in documented]
    return [
        name
        for name, thing in zip(full, objects, strict=True)
        if name not in documented and not any(thing is other for other in present)
    ]


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    domain = env.get_domain("py")
    documented = {name for name, *_ in domain.get_objects()}
    for name in undocumented(documented):
        _LOG.warning("%s is public and has no entry in docs/api", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the check."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
