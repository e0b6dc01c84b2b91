"""Verifies that a checkpoint can be read back after it was written."""

import math

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.errors import CheckpointError
from lcjax.io.leaves import LeafPath
from lcjax.io.manifest import ARRAYS, read_manifest
from lcjax.io.reader import OpenCheckpoint, read_leaves

_MERGED = "manifest.ocdbt"  # orbax writes it last, from the output of every process


def verify(place: ocp.path.Path) -> None:
    """Raises unless the manifest and the smallest leaf of a new checkpoint can be read.

    This shows that orbax merged all its files, at the cost of one leaf, or of one list of leaves.
    In a job of several processes no leaf is read.

    Raises:
      OSError: the checkpoint cannot be read.
    """
    try:
        manifest = read_manifest(place)
        if not (place / ARRAYS / _MERGED).exists():
            raise CheckpointError(f"{ARRAYS}/{_MERGED} is missing")
        if jax.process_count() == 1:
            sizes = {path: _bytes(one) for path, one in manifest["leaves"].items() if _bytes(one)}
            unit = _unit(min(sizes, key=lambda path: (_unit(path) != path, sizes[path])))
            chosen = [path for path in sizes if path[: len(unit)] == unit]
            records = {path: manifest["leaves"][path] for path in chosen}
            read_leaves(OpenCheckpoint(place, ARRAYS, manifest), records, {}, partial=True)
    except ValueError as error:
        raise OSError(f"{place} was not saved: it cannot be read back. {error}") from error


def _unit(path: LeafPath) -> LeafPath:
    """Returns the path up to the first list, which orbax reads as a whole."""
    return path[: next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))]


def _bytes(record: dict) -> int:
    return math.prod(record["shape"]) * np.dtype(record["dtype"]).itemsize
