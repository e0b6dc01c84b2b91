"""Training batches by step, from arrays in device memory or streamed from disk."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from train.runtime.sharding import replicate, shard_batch
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class BatchStream:
    """Batches by step; the batch of step n depends on the seed and n only.

    Attributes:
      steps_per_epoch: number of batches per epoch.
      arrays: a pytree on the device, passed to every dispatch.
      fetch: `fetch(arrays, inputs)` returns one batch, inside the jitted step.
      inputs: `inputs(start_step)` yields the inputs of dispatches without end: pytrees of arrays
        whose leading axis is the steps of one dispatch, which does not cross the end of an epoch.
    """

    steps_per_epoch: int
    arrays: Any
    fetch: Callable[[Any, Any], Any]
    inputs: Callable[[int], Iterator[Any]]


def in_memory(arrays: Any, batch_size: int, *, seed: int, steps_per_dispatch: int) -> BatchStream:
    """Returns the batches of a pytree of arrays whose leading axis is the examples.

    An epoch drops its last, incomplete batch. It is divided into dispatches of at most
    `steps_per_dispatch` steps, whose lengths differ by at most one: two compiled programs suffice.

    Raises:
      ConfigError: if there are fewer examples than one batch.
    """
    count = len(jax.tree.leaves(arrays)[0])
    per_epoch = count_batches(count, batch_size)
    return BatchStream(
        steps_per_epoch=per_epoch,
        arrays=replicate(arrays),
        fetch=lambda arrays, rows: jax.tree.map(lambda array: array[shard_batch(rows)], arrays),
        inputs=dispatched(
            lambda epoch: epoch_order(seed, epoch, count, batch_size), per_epoch, steps_per_dispatch
        ),
    )


def dispatched(
    order: Callable[[int], np.ndarray], per_epoch: int, steps_per_dispatch: int
) -> Callable[[int], Iterator[np.ndarray]]:
    """Returns `BatchStream.inputs` for epochs that are arrays whose leading axis is the steps.

    Args:
      order: returns the array of an epoch from its number.
      per_epoch: steps per epoch.
      steps_per_dispatch: most steps per dispatch; their lengths differ by at most one.
    """
    dispatches = -(-per_epoch // steps_per_dispatch)
    edges = [per_epoch * i // dispatches for i in range(dispatches + 1)]

    def inputs(start_step: int) -> Iterator[np.ndarray]:
        epoch, offset = divmod(start_step, per_epoch)
        while True:
            steps = order(epoch)
            for start, end in pairwise(edges):
                if end > offset:
                    yield steps[max(start, offset) : end]
            epoch, offset = epoch + 1, 0

    return inputs


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """Returns the batches of an epoch as indices: int32 (count // batch_size, batch_size).

    A permutation that depends on seed and epoch only; the remainder is dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = count // batch_size
    return rng.permutation(count)[: steps * batch_size].astype(np.int32).reshape(steps, batch_size)


def count_batches(count: int, batch_size: int) -> int:
    """Returns the number of complete batches in an epoch of `count` examples.

    Raises:
      ConfigError: if there are fewer examples than one batch.
    """
    if count < batch_size:
        raise ConfigError(
            f"--batch-size is {batch_size}, but there are only {count} examples to train on; "
            f"expected at most {count}."
        )
    return count // batch_size
