"""Checkpoints of a run in progress, from which it resumes.

They have the manifest of `lcjax.save`, with a checksum of every leaf; `lcjax.restore` reads them.
"""

import math
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax.io.containers import as_stored, containers
from lcjax.io.leaves import flatten
from lcjax.io.locations import absolute, orbax_context
from lcjax.io.manifest import ARRAYS, check_names, entry, own_manifest, read_record, seal
from lcjax.io.schema import DamagedError

_SCORE = "merit"  # name of the metric in checkpoints


class Snapshots:
    """The last few training states of a run, by step, and the best one.

    Writing is atomic. On a mesh every process saves its own shards.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        """Opens a run's checkpoints; the first save deletes leftovers of an interrupted one.

        Args:
          directory: of the run.
          keep: number of last checkpoints to keep.
        """
        self._saving: Any = None
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[_SCORE],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        place = absolute(directory / "checkpoints")
        self._orbax = ocp.training.Checkpointer(
            place,
            context=orbax_context(place),
            preservation_policy=policies.AnyPreservationPolicy(  # type: ignore
                [policies.LatestN(keep), best]
            ),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Saves a pytree of arrays in the background; it may be donated when this returns.

        Args:
          step: number of the checkpoint.
          state: the pytree.
          score: quality of the state, higher is better; None if it was not measured.
        """
        leaves, kinds = flatten(state), containers(state)
        check_names(leaves)
        self._saving = self._orbax.save_async(
            step,
            as_stored(leaves, kinds),
            checkpointable_name=ARRAYS,
            force=True,
            metrics=None if score is None else {_SCORE: score},
            custom_metadata=seal([entry(*one) for one in leaves.items()], kinds, None),
        )

    @property
    def best(self) -> float:
        """The largest score of the kept states; minus infinity if none has one."""
        kept: list[Any] = [checkpoint.metrics for checkpoint in self._orbax.checkpoints]
        return max((metrics[_SCORE] for metrics in kept if metrics), default=-math.inf)

    def restore(self, like: Any) -> Any:
        """Returns the latest state, with the structure and shardings of `like`; None without one.

        Raises:
          CheckpointError: if it is damaged, or of another structure.
        """
        if self._saving is not None:
            self._saving.result()
        latest = self._orbax.latest
        if latest is None:
            return None
        abstract, place = jax.tree.map(_abstract, like), absolute(latest.path)
        try:
            if own_manifest(place, read_record(place)) is None:  # written by an early lcjax
                return self._orbax.load(latest, abstract)
            return lcjax.restore(place, like=abstract)
        except DamagedError as error:
            others = [str(found.step) for found in self._orbax.checkpoints[:-1]]
            remedy = f"continue from step {others[-1]}" if others else "restart the run"
            raise DamagedError(
                f"{error} To {remedy}, move {place} out of the run's directory and resume."
            ) from error

    def close(self) -> None:
        """Waits until all checkpoints are saved."""
        self._orbax.close()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
