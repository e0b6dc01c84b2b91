"""Where training batches come from: arrays in device memory, or a stream from disk."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from train.config import ConfigError
from train.data import epoch_order, stream


@dataclasses.dataclass(frozen=True)
class Source:
    """Batches by step: what step n trains on depends on the seed and n alone.

    Attributes:
      steps_per_epoch: a multiple of `steps_per_dispatch`.
      steps_per_dispatch: steps that the device takes in one call.
      arrays: a pytree on the device, handed to every dispatch.
      fetch: `fetch(arrays, inputs)` returns one batch, inside the jitted step.
      inputs: `inputs(start_step)` yields without end what dispatches take: pytrees of arrays with
        a leading axis of `steps_per_dispatch`.
    """

    steps_per_epoch: int
    steps_per_dispatch: int
    arrays: Any
    fetch: Callable[[Any, Any], Any]
    inputs: Callable[[int], Iterator[Any]]


def in_memory(arrays: Any, batch_size: int, *, seed: int, steps_per_dispatch: int) -> Source:
    """Returns a source over a pytree of arrays with one leading axis, the examples.

    An epoch is cut into equal dispatches, so that one program serves all: besides the last,
    incomplete batch it leaves out fewer batches than it has dispatches, others every epoch.

    Raises:
      ConfigError: when there are fewer examples than one batch takes.
    """
    count = len(jax.tree.leaves(arrays)[0])
    batches = _batches(count, batch_size)
    dispatches = -(-batches // steps_per_dispatch)
    per_dispatch = batches // dispatches
    per_epoch = per_dispatch * dispatches

    def inputs(start_step: int) -> Iterator[np.ndarray]:
        epoch, offset = divmod(start_step, per_epoch)
        while True:
            order = epoch_order(seed, epoch, count, batch_size)[:per_epoch]
            for start in range(offset, per_epoch, per_dispatch):
                yield order[start : start + per_dispatch]
            epoch, offset = epoch + 1, 0

    return Source(
        steps_per_epoch=per_epoch,
        steps_per_dispatch=per_dispatch,
        arrays=jax.device_put(arrays),
        fetch=lambda held, chosen: jax.tree.map(lambda array: array[chosen], held),
        inputs=inputs,
    )


def streamed(split: Any, batch_size: int, *, seed: int) -> Source:
    """Returns a source over a split that is read from disk, one step a dispatch.

    Raises:
      ConfigError: when there are fewer examples than one batch takes.
    """

    def inputs(start_step: int) -> Iterator[Any]:
        for batch in stream(split, batch_size, seed=seed, start_step=start_step):
            yield jax.device_put(jax.tree.map(lambda array: array[None], batch))

    return Source(
        steps_per_epoch=_batches(len(split), batch_size),
        steps_per_dispatch=1,
        arrays=(),
        fetch=lambda _, batch: batch,
        inputs=inputs,
    )


def _batches(count: int, batch_size: int) -> int:
    if count < batch_size:
        raise ConfigError(
            f"--batch-size is {batch_size}, but there are only {count} examples to train on; "
            "wanted a batch of at most that many."
        )
    return count // batch_size
