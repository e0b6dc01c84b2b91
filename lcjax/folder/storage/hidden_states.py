"""Hidden states of a calibration set on disk, batch by batch."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np


class HiddenStates:
    """A file of float32 hidden states; only the batch that is read or written is in memory.

    The operating system keeps the file in its cache while memory is free. It is not mapped: pages
    of a map would count as memory of the process.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, int]], width: int):
        """Names a file, which may not exist yet.

        Args:
          path: of the file.
          shapes: (texts, tokens) of each batch.
          width: of a hidden state.
        """
        self.path = path
        self._shapes, self._width = shapes, width
        sizes = [4 * texts * tokens * width for texts, tokens in shapes]
        self._starts = [0, *accumulate(sizes)]

    def read(self, batch: int) -> np.ndarray:
        """Returns the hidden states of a batch, float32 (texts, tokens, width)."""
        texts, tokens = self._shapes[batch]
        count = texts * tokens * self._width
        found = np.fromfile(self.path, np.float32, count, offset=self._starts[batch])
        return found.reshape(texts, tokens, self._width)

    def write(self, batch: int, states: Any) -> None:
        """Writes the hidden states of a batch."""
        states = np.ascontiguousarray(states, np.float32)
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._starts[batch])
            file.write(states.reshape(-1).view(np.uint8).data)
