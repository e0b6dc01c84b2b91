"""What every labelled data set is to a run, whatever its examples are."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax


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
