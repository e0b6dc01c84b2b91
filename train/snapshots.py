"""Checkpoints of a run in progress, from which it resumes."""

import math
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

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
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[_MERIT],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._orbax = ocp.training.Checkpointer(
            str(directory.absolute() / "checkpoints"),
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
        metrics: Any = None if merit is None else {_MERIT: merit}
        self._orbax.save_async(step, state, force=True, metrics=metrics)

    @property
    def best(self) -> float:
        """The largest merit of the states that are kept; minus infinity where none has one."""
        kept: list[Any] = [found.metrics for found in self._orbax.checkpoints]
        return max((metrics[_MERIT] for metrics in kept if metrics), default=-math.inf)

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
