"""Checkpoints of a run in progress, from which it resumes.

Each has the manifest that `lcjax.save` writes, with a checksum of every leaf, and `lcjax.restore`
reads it too.
"""

import math
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lcjax.errors import DamagedError
from lcjax.io.checkpoint import restore
from lcjax.io.containers import as_stored, containers
from lcjax.io.file_paths import absolute_path, orbax_context
from lcjax.io.leaves import flatten
from lcjax.io.manifest import (
    ARRAYS,
    check_names,
    lcjax_manifest,
    leaf_record,
    make_manifest,
    read_record,
)

_MERIT = "merit"


class Snapshots:
    """The last few training states of a run, by step, and the best one.

    Each is there whole or not at all. On a mesh every process saves its own shards.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        """Opens a run's checkpoints; the first save clears away what an interrupted one left.

        Args:
          directory: of the run.
          keep: how many of the last ones stay.
        """
        self._saving: Any = None
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[_MERIT],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        place = absolute_path(directory / "checkpoints")
        self._orbax = ocp.training.Checkpointer(
            place,
            context=orbax_context(place),
            preservation_policy=policies.AnyPreservationPolicy(  # type: ignore
                [policies.LatestN(keep), best]
            ),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, *, merit: float | None = None) -> None:
        """Saves a pytree of arrays in the background; it may be donated when this returns.

        Args:
          step: by which it is kept.
          state: the pytree.
          merit: how good it is, higher is better; None where that was not measured.
        """
        leaves, kinds = flatten(state), containers(state)
        check_names(leaves)
        self._saving = self._orbax.save_async(
            step,
            as_stored(leaves, kinds),
            checkpointable_name=ARRAYS,
            force=True,
            metrics=None if merit is None else {_MERIT: merit},
            custom_metadata=make_manifest(
                [leaf_record(*one) for one in leaves.items()], kinds, None
            ),
        )

    @property
    def best(self) -> float:
        """The largest merit of the states that are kept; minus infinity where none has one."""
        kept: list[Any] = [found.metrics for found in self._orbax.checkpoints]
        return max((metrics[_MERIT] for metrics in kept if metrics), default=-math.inf)

    def restore(self, like: Any) -> Any:
        """Returns the latest state, with the structure and shardings of `like`; None for none.

        Raises:
          CheckpointError: when it is damaged, or of another structure.
        """
        if self._saving is not None:
            self._saving.result()
        latest = self._orbax.latest
        if latest is None:
            return None
        wanted, place = jax.tree.map(_abstract, like), absolute_path(latest.path)
        try:
            if lcjax_manifest(place, read_record(place)) is None:  # by an lcjax that wrote none
                return self._orbax.load(latest, wanted)
            return restore(place, like=wanted)
        except DamagedError as error:
            others = [str(found.step) for found in self._orbax.checkpoints[:-1]]
            before = f"go on from step {others[-1]}" if others else "start the run anew"
            raise DamagedError(
                f"{error} To {before}, move {place} out of the run's directory and resume."
            ) from error

    def close(self) -> None:
        """Waits until everything is saved."""
        self._orbax.close()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
