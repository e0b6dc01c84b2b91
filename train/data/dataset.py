"""What every labelled data set is to a run, whatever its examples are."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import jax
import numpy as np

from train.data.images.splits import DataError


class Takes(Protocol):
    """A split of anything."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Self:
        """Returns the split that holds these rows."""
        ...


_AnySplit = TypeVar("_AnySplit", bound=Takes)


@dataclasses.dataclass(frozen=True)
class LabelledData(abc.ABC):
    """Labelled examples, cut in three.

    Attributes:
      name: the set's name, with its version where it has one.
      train: a split, which has a length and `take(indices)`.
      validation: cut from the training split; fixed by the cut's own seed.
      test: reads the held-out split; a function so that nobody looks before the end.
    """

    name: str
    train: Any
    validation: Any
    test: Callable[[], Any]

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """What the examples are, in words."""

    @property
    @abc.abstractmethod
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one input, as forward passes are timed with."""

    @property
    @abc.abstractmethod
    def each(self) -> str:
        """What one input is, such as "an image"."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """How splits are evaluated, where there is more than one way; JSON, "about" in words."""
        return {}


def cut(
    split: _AnySplit, held_out: float, seed: int, name: str, what: str
) -> tuple[_AnySplit, _AnySplit]:
    """Returns what is left of a training split, and what is held out of it for validation.

    Args:
      split: to be cut.
      held_out: below 1, the part that is held out; else, how many examples.
      seed: fixes which.
      name: of the set.
      what: its examples are, in the plural.

    Raises:
      DataError: when either side would be empty.
    """
    count = round(held_out * len(split)) if held_out < 1 else round(held_out)
    if not 0 < count < len(split):
        raise DataError(
            f"{name}: validation is {held_out}, {count} of {len(split)} training {what}; wanted at "
            f"least one of the {what} on either side: a fraction below 1, or a count."
        )
    order = np.random.default_rng(seed).permutation(len(split))
    return split.take(np.sort(order[count:])), split.take(np.sort(order[:count]))
