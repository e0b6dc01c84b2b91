"""Labelled texts as they are stored."""

import dataclasses
from collections.abc import Callable

import numpy as np

from train.data.dataset import Part


@dataclasses.dataclass(frozen=True)
class Texts:
    """A split of labelled texts.

    Attributes:
      texts: str (count,), an array of objects.
      labels: int32 (count,), each in [0, num_classes).
    """

    texts: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Texts":
        """Returns the split with these rows."""
        return Texts(self.texts[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True)
class TextSet:
    """A stored set of labelled texts, in two splits.

    Attributes:
      name: of the set, with its version if it has one.
      class_names: one per class.
      read: returns a split; it is not read before.
      tested_on: a description of the test split.
    """

    name: str
    class_names: tuple[str, ...]
    read: Callable[[Part], Texts]
    tested_on: str
