"""Checkpoints of a run in progress, from which it resumes."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

_KEPT = 2


class Snapshots:
    """The last few training states of a run, by step; each is there whole or not at all."""

    def __init__(self, directory: Path):
        """Opens a run's checkpoints; the first save clears away what an interrupted one left."""
        self._orbax = ocp.training.Checkpointer(
            str(directory.absolute() / "checkpoints"),
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),  # type: ignore
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays in the background; it may be donated when this returns."""
        self._orbax.save_async(step, state, force=True)

    def restore(self, like: Any) -> Any:
        """Returns the latest state, with the structure and shardings of `like`; None for none."""
        latest = self._orbax.latest
        if latest is None:
            return None
        return self._orbax.load(latest, jax.tree.map(_abstract, like))

    def close(self) -> None:
        """Waits until everything is saved."""
        self._orbax.close()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
