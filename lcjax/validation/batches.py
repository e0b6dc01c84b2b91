"""Batches of data: what an iterable of them must be, and what each of them must hold."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lcjax._messages import describe
from lcjax.errors import CollapseError


def as_batch(batch: Any) -> tuple[Any, ...]:
    """Returns what apply_fn takes after the variables: a tuple, or one array by itself.

    Raises:
      TypeError: what is no array; names its place.
    """
    batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(batch):
        flag = isinstance(leaf, (bool, str))
        if flag or not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
            raise TypeError(
                f"batch{jax.tree_util.keystr(keys)} is {leaf!r:.60}, a {type(leaf).__name__}; "
                "expected an array of NumPy or JAX. "
                + (
                    "Bind flags in apply_fn: lambda variables, x: model.apply(variables, x, False)."
                    if flag
                    else "Convert it, as with numpy.asarray."
                )
            )
    return batch


def check_batches(batches: Any, *, more_than_once: str = "") -> None:
    """Raises TypeError unless batches can be gone through, if need be more than once.

    Args:
      batches: what the user gave.
      more_than_once: what needs a pass of its own, where more than one is needed.
    """
    if hasattr(batches, "shape") or isinstance(batches, str | Mapping):
        raise TypeError(
            f"batches is one {type(batches).__name__}, wanted an iterable of batches: put it in a "
            "list, [batch]."
        )
    if hasattr(batches, "sites") or not hasattr(batches, "__iter__"):
        raise TypeError(
            f"batches is {describe(batches)}; expected an iterable of batches, such as [batch]. "
            "Look at the order of the arguments: (apply_fn, variables, batches, sites)."
        )
    if more_than_once and isinstance(batches, Iterator):
        raise TypeError(
            f"batches is a {type(batches).__name__}, which can be gone through only once, but "
            f"{more_than_once} needs a pass of its own. Give a list, or an object whose __iter__ "
            "starts anew; lcjax.calibrate needs one pass only."
        )


def check_devices(variables: Any, compact: Any, batch: tuple[Any, ...]) -> None:
    """Raises where arrays are committed to different devices, which no program takes."""
    places: dict[frozenset[Any], None] = {}
    for leaf in jax.tree.leaves((variables, compact, batch)):
        if isinstance(leaf, jax.Array) and leaf.committed:
            places[frozenset(leaf.sharding.device_set)] = None
    if len(places) > 1:
        found = "; ".join(", ".join(sorted(map(str, devices))) for devices in places)
        raise CollapseError(
            f"got variables and batches on different devices: {found}; expected one device or one "
            "mesh. Move them together with jax.device_put."
        )
