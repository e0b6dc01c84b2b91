"""Windows of a text, for training and for evaluation with a stride."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property

import jax
import numpy as np

from train.data.batches import BatchStream, count_batches, dispatched, epoch_order
from train.runtime.sharding import replicate, shard_batch
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of one text, each with the tokens to predict from it.

    Window i begins at token `i stride`. Every token but the first is predicted once, by the first
    window that contains its predecessor: from the `context - stride + 1` to `context` tokens before
    it, fewer near the beginning.

    Attributes:
      tokens: int32 (count,).
      context: tokens per window.
      stride: distance between the first tokens of two windows; at most the context.
      chosen: indices of the windows in this split; None for all.
    """

    tokens: np.ndarray
    context: int
    stride: int
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, indices: np.ndarray) -> "Windows":
        """Returns the split with these windows."""
        return dataclasses.replace(self, chosen=self._numbers[indices])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and next tokens, -1 where they do not count; both (indices, context).

        A last window that exceeds the text is padded with token 0.
        """
        numbers = self._numbers[indices]
        at = numbers[:, None] * self.stride + np.arange(self.context)
        new = np.arange(self.context) >= self.context - self.stride
        counts = (at + 1 < len(self.tokens)) & (new | (numbers == 0)[:, None])
        return self._padded[at], np.where(counts, self._padded[at + 1], -1)

    @cached_property
    def _padded(self) -> np.ndarray:
        return np.pad(self.tokens, (0, self.context + 1))

    @cached_property
    def _numbers(self) -> np.ndarray:
        if self.chosen is not None:
            return self.chosen
        # The first, and one more while there are tokens that no window predicts.
        return np.arange(1 + max(0, -(-(len(self.tokens) - 1 - self.context) // self.stride)))


def window_batches(split: Windows, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, in order, in batches of one size: inputs and next tokens.

    The last batch is padded with windows of token 0 whose labels are -1.
    """
    for start in range(0, len(split), batch_size):
        inputs, labels = split.batch(np.arange(start, min(start + batch_size, len(split))))
        missing = ((0, batch_size - len(inputs)), (0, 0))
        yield np.pad(inputs, missing), np.pad(labels, missing, constant_values=-1)


def packed(
    tokens: np.ndarray, context: int, batch_size: int, *, seed: int, steps_per_dispatch: int
) -> BatchStream:
    """Returns the batches of adjacent windows, each with the token after every position.

    An epoch divides the text into windows, starting at one of its first `context` tokens, and takes
    them in a random order; both depend on seed and epoch only. Less than one batch is dropped.

    Args:
      tokens: int32 (count,).
      context: tokens per window.
      batch_size: windows per step.
      seed: of the order.
      steps_per_dispatch: most steps per dispatch.

    Raises:
      ConfigError: if there are fewer windows than one batch.
    """
    count = max(0, (len(tokens) - context) // context)
    per_epoch = count_batches(count, batch_size)

    def order(epoch: int) -> np.ndarray:
        first = np.random.default_rng([seed, epoch, context]).integers(context)
        starts = first + context * epoch_order(seed, epoch, count, batch_size)
        return starts.astype(np.int32)

    def fetch(text: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows = text[shard_batch(starts)[:, None] + np.arange(context + 1, dtype=np.int32)]
        return windows[:, :-1], windows[:, 1:]

    return BatchStream(
        steps_per_epoch=per_epoch,
        arrays=replicate(tokens),
        fetch=fetch,
        inputs=dispatched(order, per_epoch, steps_per_dispatch),
    )


def check_length(tokens: np.ndarray, context: int, use: str) -> None:
    """Raises ConfigError if a text is shorter than one window.

    Args:
      tokens: of the text.
      context: tokens per window.
      use: purpose of the text, for the message.
    """
    if len(tokens) <= context:
        raise ConfigError(
            f"--context is {context}, but the text to {use} has only {len(tokens):,} tokens; "
            "expected more tokens than the context."
        )
