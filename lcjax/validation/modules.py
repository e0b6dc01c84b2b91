"""Modules of Flax NNX and Equinox, which contain their params, where trees are expected."""

import sys
from typing import Any

# By the library: what to use in the place of the functions of trees, and what is saved of a module.
_LIBRARIES = {
    "flax.nnx": ("a Flax NNX module", "lcjax.nnx", "nnx.state(model)"),
    "equinox": ("an Equinox module", "lcjax.eqx", "eqx.filter(model, eqx.is_array)"),
}


def is_nnx_module(value: Any) -> bool:
    """Returns whether this is a module of Flax NNX, without an import of NNX."""
    return _library(value) == "flax.nnx"


def check_no_module(tree: Any, name: str) -> None:
    """Raises TypeError if a module was given in the place of its params.

    Args:
      tree: the user's argument.
      name: of the function that takes it.
    """
    found = _library(tree)
    if found is not None:
        kind, package, _ = _LIBRARIES[found]
        raise TypeError(
            f"{name}: got {kind}, {type(tree).__name__}, expected nested dicts (params or "
            f"variables). Use {package}, which takes modules and gives modules back: "
            f"{package}.trace(model, *inputs), then its methods."
        )


def check_saveable(tree: Any) -> None:
    """Raises TypeError if a whole module is to be saved."""
    found = _library(tree)
    if found is not None:
        kind, _, state = _LIBRARIES[found]
        raise TypeError(
            f"save: got {kind}, {type(tree).__name__}, expected a tree of arrays. Pass {state}."
        )


def _library(value: Any) -> str | None:
    """Returns the library of which this is a module, without an import of it."""
    for name in _LIBRARIES:
        library = sys.modules.get(name)
        if library is not None and isinstance(value, getattr(library, "Module", ())):
            return name
    return None
