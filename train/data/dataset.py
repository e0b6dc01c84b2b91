"""Data sets in three splits, whatever their examples are."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, Self, TypeVar

import jax
import numpy as np

Part = Literal["train", "test"]


class DataError(ValueError):
    """A data set does not exist, is damaged, or is of another kind than expected."""


class Indexable(Protocol):
    """A split of any kind of data."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Self:
        """Returns the split with these rows."""
        ...


_AnySplit = TypeVar("_AnySplit", bound=Indexable)


@dataclasses.dataclass(frozen=True)
class Dataset(abc.ABC):
    """Examples with labels, in three splits.

    Attributes:
      name: of the set, with its version if it has one.
      train: a split, with a length and `take(indices)`.
      validation: held out of the training split, always the same.
      test: reads the test split; a function, so that it is read at the end only.
    """

    name: str
    train: Any
    validation: Any
    test: Callable[[], Any]

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """A description of the examples."""

    @property
    @abc.abstractmethod
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one input, for timing forward passes."""

    @property
    @abc.abstractmethod
    def each(self) -> str:
        """Name of one input, such as "an image"."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """How splits are evaluated, if there are several ways; JSON, described by "note"."""
        return {}


def hold_out(
    split: _AnySplit, fraction: float, seed: int, name: str, examples: str
) -> tuple[_AnySplit, _AnySplit]:
    """Returns the rest of a training split, and the part of it held out for validation.

    Args:
      split: to be divided.
      fraction: below 1, the fraction to hold out; otherwise the number of examples.
      seed: determines which.
      name: of the set, for messages.
      examples: what its examples are, in the plural, for messages.

    Raises:
      DataError: if either part would be empty.
    """
    count = round(fraction * len(split)) if fraction < 1 else round(fraction)
    if not 0 < count < len(split):
        raise DataError(
            f"{name}: validation is {fraction}, {count} of {len(split)} training {examples}; "
            f"expected a fraction below 1 or a count that leaves {examples} in both parts."
        )
    order = np.random.default_rng(seed).permutation(len(split))
    return split.take(np.sort(order[count:])), split.take(np.sort(order[:count]))
