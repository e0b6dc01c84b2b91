"""Batches of images: shuffled and endless for training, in order for evaluation."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np

from train.data.batches import BatchStream, count_batches
from train.data.dataset import DataError
from train.data.images.splits import Split, StreamedSplit
from train.runtime.sharding import local_rows, make_global_batch

# That decode pictures, one a core at least: Pillow frees Python's lock in decoding and resizing.
THREADS = max(16, os.cpu_count() or 1)


def streamed(split: Any, batch_size: int, *, seed: int) -> BatchStream:
    """Returns the batches of a split that is read from disk, one step per dispatch.

    Every process reads its own rows of every batch.

    Raises:
      ConfigError: if there are fewer examples than one batch.
    """

    def inputs(start_step: int) -> Iterator[Any]:
        rows = local_rows(batch_size)
        for batch in stream(split, batch_size, seed=seed, start_step=start_step, rows=rows):
            whole = jax.tree.map(lambda array: array[None], batch)
            yield make_global_batch(whole, rows, batch_size, axis=1)

    return BatchStream(
        steps_per_epoch=count_batches(len(split), batch_size),
        arrays=(),
        fetch=lambda _, batch: batch,
        inputs=inputs,
    )


def stream(
    split: Split | StreamedSplit,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields shuffled training batches without end: uint8 images and int32 labels.

    An epoch has len(split) // batch_size steps. Order and random crops of step n depend on seed
    and n only, so training resumes at any `start_step`.

    Args:
      split: of images.
      batch_size: global batch size.
      seed: of order and crops.
      start_step: number of the first batch.
      rows: rows of every batch to yield, ascending; None for all. The others are not read.

    Raises:
      DataError: if the split has fewer images than one batch.
    """
    per_epoch = len(split) // batch_size * batch_size
    if not per_epoch:
        raise DataError(f"batch_size is {batch_size}; expected at most {len(split)}, all images.")

    def sample(index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        return split.sample(index, rng) if isinstance(split, StreamedSplit) else split[index]

    order = grain.MapDataset.range(len(split)).seed(seed).shuffle()[:per_epoch].repeat()
    samples = order.random_map(sample)[start_step * batch_size :]
    if rows is None or len(rows) == batch_size:
        return _read_ahead(samples, batch_size)
    return _read_ahead(grain.MapDataset.source(_Rows(samples, batch_size, rows)), len(rows))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some rows of every batch of a data set, in sequence."""

    samples: grain.MapDataset
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        batch, row = divmod(index, len(self.rows))
        found: Any = self.samples[batch * self.batch_size + int(self.rows[row])]
        return found


def batches(
    split: Split | StreamedSplit, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, in order, in batches of one size: uint8 images and int32 labels.

    The last batch is padded with zero images whose label is -1, which evaluation ignores.
    """
    if isinstance(split, Split):
        starts = range(0, len(split), batch_size)
        parts = ((split.images[i:][:batch_size], split.labels[i:][:batch_size]) for i in starts)
    else:
        order = grain.MapDataset.range(len(split))
        parts = _read_ahead(order.map(split.__getitem__), batch_size)
    for images, labels in parts:
        missing = batch_size - len(labels)
        if missing:
            images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            labels = np.pad(labels, (0, missing), constant_values=-1)
        yield images, labels


def _read_ahead(rows: grain.MapDataset, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ahead = max(2 * batch_size, THREADS)  # fewer would leave threads idle
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
    return iter(rows.to_iter_dataset(options).batch(batch_size))
