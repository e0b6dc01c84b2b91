"""Where training batches come from: arrays in device memory, or a stream from disk."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from train.config.base import ConfigError
from train.data.images.dataset import epoch_order, stream
from train.runtime.sharding import everywhere, over_batch, own_rows, whole_batch


@dataclasses.dataclass(frozen=True)
class Source:
    """Batches by step: what step n trains on depends on the seed and n alone.

    Attributes:
      steps_per_epoch: how many batches an epoch has.
      arrays: a pytree on the device, handed to every dispatch.
      fetch: `fetch(arrays, inputs)` returns one batch, inside the jitted step.
      inputs: `inputs(start_step)` yields without end what dispatches take: pytrees of arrays whose
        leading axis is the steps of one dispatch, none of which reaches past an epoch.
    """

    steps_per_epoch: int
    arrays: Any
    fetch: Callable[[Any, Any], Any]
    inputs: Callable[[int], Iterator[Any]]


def in_memory(arrays: Any, batch_size: int, *, seed: int, steps_per_dispatch: int) -> Source:
    """Returns a source over a pytree of arrays with one leading axis, the examples.

    An epoch leaves out its last, incomplete batch. It is cut into dispatches of at most
    `steps_per_dispatch` steps whose lengths differ by one step at most: two programs serve all.

    Raises:
      ConfigError: when there are fewer examples than one batch takes.
    """
    count = len(jax.tree.leaves(arrays)[0])
    per_epoch = count_batches(count, batch_size)
    return Source(
        steps_per_epoch=per_epoch,
        arrays=everywhere(arrays),
        fetch=lambda held, chosen: jax.tree.map(lambda array: array[over_batch(chosen)], held),
        inputs=dispatched(
            lambda epoch: epoch_order(seed, epoch, count, batch_size), per_epoch, steps_per_dispatch
        ),
    )


def dispatched(
    order: Callable[[int], np.ndarray], per_epoch: int, steps_per_dispatch: int
) -> Callable[[int], Iterator[np.ndarray]]:
    """Returns a source's `inputs` for epochs that are arrays with one leading axis, the steps.

    Args:
      order: returns an epoch's, from its number.
      per_epoch: steps of an epoch.
      steps_per_dispatch: most steps of a dispatch; their lengths differ by one at most.
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


def streamed(split: Any, batch_size: int, *, seed: int) -> Source:
    """Returns a source over a split that is read from disk, one step a dispatch.

    Every process reads its own rows of every batch.

    Raises:
      ConfigError: when there are fewer examples than one batch takes.
    """

    def inputs(start_step: int) -> Iterator[Any]:
        rows = own_rows(batch_size)
        for batch in stream(split, batch_size, seed=seed, start_step=start_step, rows=rows):
            whole = jax.tree.map(lambda array: array[None], batch)
            yield whole_batch(whole, rows, batch_size, axis=1)

    return Source(
        steps_per_epoch=count_batches(len(split), batch_size),
        arrays=(),
        fetch=lambda _, batch: batch,
        inputs=inputs,
    )


def count_batches(count: int, batch_size: int) -> int:
    """Returns how many whole batches an epoch of so many examples has.

    Raises:
      ConfigError: when there are fewer examples than one batch takes.
    """
    if count < batch_size:
        raise ConfigError(
            f"--batch-size is {batch_size}, but there are only {count} examples to train on; "
            "wanted a batch of at most that many."
        )
    return count // batch_size
