"""Batches of texts of similar length, padded to one of a few lengths."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import jax
import numpy as np

from train.data.batches import BatchStream, count_batches
from train.runtime.sharding import local_rows, make_global_batch
from train.validation import ConfigError

PADDING = -1
_MULTIPLE = 8  # of lengths that are chosen for a split


@dataclasses.dataclass(frozen=True)
class TextSplit:
    """A split of texts as tokens.

    Attributes:
      tokens: int32 arrays (count,), an array of objects.
      labels: int32 (count,), each in [0, num_classes).
      lengths: lengths that texts are padded to, ascending; no text is longer than the last.
    """

    tokens: np.ndarray
    labels: np.ndarray
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "TextSplit":
        """Returns the split with these rows."""
        return TextSplit(self.tokens[indices], self.labels[indices], self.lengths)

    @cached_property
    def buckets(self) -> np.ndarray:
        """For every text, the index of the smallest length that is not exceeded."""
        return np.searchsorted(self.lengths, [len(tokens) for tokens in self.tokens])

    def with_fewer_lengths(self, count: int) -> "TextSplit":
        """Returns the split with at most so many lengths, multiples of 8, that pad the least.

        A program that is traced for every length takes longer to compile than to run on few texts.
        """
        sizes = np.array([len(tokens) for tokens in self.tokens])
        multiples = range(_MULTIPLE, max(self.lengths[-1], _MULTIPLE), _MULTIPLE)
        lengths = np.array([*multiples, self.lengths[-1]])
        buckets = np.searchsorted(lengths, sizes)
        last = buckets.max(initial=0)
        totals = np.cumsum(np.bincount(buckets, minlength=last + 1))

        def padded(choice: tuple[int, ...]) -> int:
            ends = [*choice, last]
            return int(np.diff(totals[ends], prepend=0) @ lengths[ends])

        best = min(itertools.combinations(range(last), min(count - 1, last)), key=padded)
        return TextSplit(self.tokens, self.labels, tuple(lengths[[*best, last]].tolist()))

    def batch(self, indices: np.ndarray, bucket: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens (len(indices), lengths[bucket]), padded with PADDING, and labels."""
        padded = np.full((len(indices), self.lengths[bucket]), PADDING, np.int32)
        for row, tokens in zip(padded, self.tokens[indices], strict=True):
            row[: len(tokens)] = tokens
        return padded, self.labels[indices]


def grouped(
    buckets: np.ndarray, order: Sequence[int] | np.ndarray, batch_size: int
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Returns batches of one bucket each, with their buckets, and the remaining examples.

    Examples that do not fill a batch move to the next bucket, so there are len(order) // batch_size
    batches and less than one batch remains.

    Args:
      buckets: of every example.
      order: of the examples; kept within a bucket.
      batch_size: of every batch.
    """
    found, left = [], np.empty(0, np.int64)
    of_order = buckets[order]
    for bucket in np.unique(of_order).tolist():
        mine = np.concatenate([left, np.asarray(order)[of_order == bucket]])
        whole = len(mine) // batch_size * batch_size
        found += [(bucket, part) for part in mine[:whole].reshape(-1, batch_size)]
        left = mine[whole:]
    return found, left


def bucketed(split: TextSplit, batch_size: int, *, seed: int) -> BatchStream:
    """Returns the batches of a split of texts, one step per dispatch.

    An epoch is a permutation of the texts, grouped by length, then a permutation of the batches;
    both depend on seed and epoch only. Less than one batch is dropped.

    Raises:
      ConfigError: if there are fewer texts than one batch.
    """
    per_epoch = count_batches(len(split), batch_size)

    def inputs(start_step: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        epoch, offset = divmod(start_step, per_epoch)
        rows = local_rows(batch_size)
        while True:
            rng = np.random.default_rng([seed, epoch])
            found, _ = grouped(split.buckets, rng.permutation(len(split)), batch_size)
            for i in rng.permutation(len(found))[offset:]:
                bucket, indices = found[i]
                batch = split.batch(indices[rows], bucket)
                whole = jax.tree.map(lambda array: array[None], batch)
                yield make_global_batch(whole, rows, batch_size, axis=1)
            epoch, offset = epoch + 1, 0

    return BatchStream(
        steps_per_epoch=per_epoch, arrays=(), fetch=lambda _, batch: batch, inputs=inputs
    )


def text_batches(split: TextSplit, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, short texts first, in batches of one size: tokens and labels.

    The last batch is filled with rows of padding, whose label is -1.
    """
    found, left = grouped(split.buckets, np.arange(len(split)), batch_size)
    for bucket, indices in found:
        yield split.batch(indices, bucket)
    if len(left):
        tokens, labels = split.batch(left, split.buckets[left].max())
        missing = batch_size - len(left)
        tokens = np.pad(tokens, ((0, missing), (0, 0)), constant_values=PADDING)
        yield tokens, np.pad(labels, (0, missing), constant_values=-1)


def usable_lengths(lengths: Sequence[int], most: int) -> tuple[int, ...]:
    """Returns the lengths up to `most`, and `most` itself if one is larger.

    Raises:
      ConfigError: if they do not ascend, or the first is below 3, one token between two special
        ones.
    """
    if not lengths or lengths[0] < 3 or any(np.diff(lengths) <= 0):
        raise ConfigError(
            f"--lengths is {tuple(lengths)}; expected ascending numbers of at least 3."
        )
    last = min(lengths[-1], most)
    return (*(length for length in lengths if length < last), last)
