"""What models are judged by: how good, how much worse than another, and how that is written."""

import abc
from collections.abc import Mapping
from typing import ClassVar

# Of a model on a split, by name.
Scores = Mapping[str, float]


class Metric(abc.ABC):
    """What models of one kind are judged by.

    Attributes:
      name: which of a model's scores it is.
      axis: what an axis of `value` is called.
      merit_is: what `merit` is on the validation split, in words.
      least_span: of values, that is of interest.
    """

    name: ClassVar[str]
    axis: ClassVar[str]
    merit_is: ClassVar[str]
    least_span: ClassVar[float]

    def value(self, scores: Scores) -> float:
        """Returns the number that is drawn."""
        return scores[self.name]

    @abc.abstractmethod
    def merit(self, scores: Scores) -> float:
        """Returns a number that is higher for better models; a budget of it is --max-drop."""

    @abc.abstractmethod
    def show(self, scores: Scores) -> str:
        """Returns the score as a reader wants it."""

    @abc.abstractmethod
    def show_drop(self, drop: float) -> str:
        """Returns how much worse a model is, in words, from the drop of its merit."""


class Accuracy(Metric):
    """The part of the examples that is classified right."""

    name, axis, least_span = "accuracy", "accuracy, %", 1.0
    merit_is = "the validation accuracy"

    def value(self, scores: Scores) -> float:
        """Returns the percentage."""
        return 100 * scores["accuracy"]

    def merit(self, scores: Scores) -> float:
        """Returns the accuracy, 0 to 1."""
        return scores["accuracy"]

    def show(self, scores: Scores) -> str:
        """Returns the percentage with two decimals."""
        return f"{100 * scores['accuracy']:.2f} %"

    def show_drop(self, drop: float) -> str:
        """Returns by how many points it is lower."""
        return f"{100 * drop:.2f} points under"


class Loss(Metric):
    """The mean cross entropy, with the perplexity, which is its exponential."""

    name, axis, least_span = "loss", "loss, nats a token", 0.05
    merit_is = "minus the validation loss"

    def merit(self, scores: Scores) -> float:
        """Returns minus the loss."""
        return -scores["loss"]

    def show(self, scores: Scores) -> str:
        """Returns loss and perplexity."""
        return f"{scores['loss']:.4f} (perplexity {scores['perplexity']:.3f})"

    def show_drop(self, drop: float) -> str:
        """Returns by how many nats it is higher."""
        return f"{drop:.4f} nats over"


ACCURACY, LOSS = Accuracy(), Loss()
