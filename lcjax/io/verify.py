"""Whether what was written a moment ago can be read."""

import math

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.io.leaves import LeafPath
from lcjax.io.loading import load
from lcjax.io.manifest import ARRAYS, read_manifest
from lcjax.io.opening import Opened
from lcjax.io.schema import CheckpointError

_MERGED = "manifest.ocdbt"  # orbax writes it last, from what each process wrote


def verify(place: ocp.path.Path) -> None:
    """Raises unless what was just written has its manifest and its smallest leaf can be read.

    That shows that orbax merged all it wrote, at the price of one leaf, or of the list that it is
    in. In a job of several processes no leaf is read.

    Raises:
      OSError: when it cannot be read.
    """
    try:
        manifest = read_manifest(place)
        if not (place / ARRAYS / _MERGED).exists():
            raise CheckpointError(f"there is no {ARRAYS}/{_MERGED}")
        if jax.process_count() == 1:
            sizes = {path: _bytes(one) for path, one in manifest["leaves"].items() if _bytes(one)}
            unit = _unit(min(sizes, key=lambda path: (_unit(path) != path, sizes[path])))
            chosen = [path for path in sizes if path[: len(unit)] == unit]
            entries = {path: manifest["leaves"][path] for path in chosen}
            load(Opened(place, ARRAYS, manifest), entries, {}, partial=True)
    except ValueError as error:
        raise OSError(f"{place} was not saved: it cannot be read again. {error}") from error


def _unit(path: LeafPath) -> LeafPath:
    """Returns the path up to the first list, which orbax reads whole."""
    return path[: next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))]


def _bytes(entry: dict) -> int:
    return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
