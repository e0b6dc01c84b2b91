"""A text as windows: to train on, and to be evaluated with a stride."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property

import jax
import numpy as np

from train.data.batches import Source, count_batches, dispatched
from train.data.images.dataset import epoch_order
from train.runtime.sharding import everywhere, over_batch
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of one text, each with the tokens that are to be told from it.

    Window i begins at token `i stride`. Every token of the text but its first is told once: those
    that an earlier window tells are left out, so that a token is told from `context - stride + 1`
    to `context` tokens before it, but near the beginning.

    Attributes:
      tokens: int32 (count,).
      context: tokens of a window.
      stride: from one window's first token to the next one's; at most the context.
      chosen: numbers of the windows that are held; None for all.
    """

    tokens: np.ndarray
    context: int
    stride: int
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, indices: np.ndarray) -> "Windows":
        """Returns the split that holds these windows."""
        return dataclasses.replace(self, chosen=self._numbers[indices])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and what follows each, -1 where that does not count; (indices, context).

        A last window that the text does not fill ends with token 0.
        """
        numbers = self._numbers[indices]
        at = numbers[:, None] * self.stride + np.arange(self.context)
        told = np.arange(self.context) >= self.context - self.stride
        held = (at + 1 < len(self.tokens)) & (told | (numbers == 0)[:, None])
        return self._padded[at], np.where(held, self._padded[at + 1], -1)

    @cached_property
    def _padded(self) -> np.ndarray:
        return np.pad(self.tokens, (0, self.context + 1))

    @cached_property
    def _numbers(self) -> np.ndarray:
        if self.chosen is not None:
            return self.chosen
        # One more than the first, while tokens are left that no window has told.
        return np.arange(1 + max(0, -(-(len(self.tokens) - 1 - self.context) // self.stride)))


def window_batches(split: Windows, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a split once, in order, in batches of one size: inputs and what follows each.

    The last batch is filled up with windows of token 0 of which nothing counts.
    """
    for start in range(0, len(split), batch_size):
        inputs, labels = split.batch(np.arange(start, min(start + batch_size, len(split))))
        missing = ((0, batch_size - len(inputs)), (0, 0))
        yield np.pad(inputs, missing), np.pad(labels, missing, constant_values=-1)


def packed(
    tokens: np.ndarray, context: int, batch_size: int, *, seed: int, steps_per_dispatch: int
) -> Source:
    """Returns a source of windows next to each other, each with what follows every token.

    An epoch cuts the text into windows from one of its first `context` tokens on, and takes them
    in a random order; both depend on seed and epoch alone. Less than a batch is left out.

    Args:
      tokens: int32 (count,).
      context: tokens of a window.
      batch_size: windows a step.
      seed: of the order.
      steps_per_dispatch: most steps of a dispatch.

    Raises:
      ConfigError: when there are fewer windows than one batch takes.
    """
    count = max(0, (len(tokens) - context) // context)
    per_epoch = count_batches(count, batch_size)

    def order(epoch: int) -> np.ndarray:
        first = np.random.default_rng([seed, epoch, context]).integers(context)
        starts = first + context * epoch_order(seed, epoch, count, batch_size)
        return starts.astype(np.int32)

    def fetch(held: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows = held[over_batch(starts)[:, None] + np.arange(context + 1, dtype=np.int32)]
        return windows[:, :-1], windows[:, 1:]

    return Source(
        steps_per_epoch=per_epoch,
        arrays=everywhere(tokens),
        fetch=fetch,
        inputs=dispatched(order, per_epoch, steps_per_dispatch),
    )


def check_length(tokens: np.ndarray, context: int, use: str) -> None:
    """Raises ConfigError where a text is shorter than one window.

    Args:
      tokens: of the text.
      context: tokens of a window.
      use: what the text is for, in words.
    """
    if len(tokens) <= context:
        raise ConfigError(
            f"--context is {context}, but the text to {use} has only {len(tokens):,} tokens; "
            "wanted a shorter context, or a longer text."
        )
