"""Metrics of models: their value, the loss of quality against another model, and their format."""

import abc
from collections.abc import Mapping
from typing import ClassVar

# Scores of a model on a split, by name.
Scores = Mapping[str, float]


class Metric(abc.ABC):
    """The metric of one kind of models.

    Attributes:
      name: key of the metric among a model's scores.
      axis: label of an axis of `value`.
      score_name: description of `score` on the validation split.
      min_axis_range: smallest half range of an axis of `value`.
    """

    name: ClassVar[str]
    axis: ClassVar[str]
    score_name: ClassVar[str]
    min_axis_range: ClassVar[float]

    def value(self, scores: Scores) -> float:
        """Returns the value for plots."""
        return scores[self.name]

    @abc.abstractmethod
    def score(self, scores: Scores) -> float:
        """Returns a number that is higher for better models; --max-drop is a budget of it."""

    @abc.abstractmethod
    def show(self, scores: Scores) -> str:
        """Returns the metric as text."""

    @abc.abstractmethod
    def show_drop(self, drop: float) -> str:
        """Returns the loss of quality as text, from the drop of the score."""


class Accuracy(Metric):
    """The fraction of correctly classified examples."""

    name, axis, min_axis_range = "accuracy", "accuracy, %", 1.0
    score_name = "the validation accuracy"

    def value(self, scores: Scores) -> float:
        """Returns the percentage."""
        return 100 * scores["accuracy"]

    def score(self, scores: Scores) -> float:
        """Returns the accuracy, 0 to 1."""
        return scores["accuracy"]

    def show(self, scores: Scores) -> str:
        """Returns the percentage with two decimals."""
        return f"{100 * scores['accuracy']:.2f} %"

    def show_drop(self, drop: float) -> str:
        """Returns the drop in percentage points."""
        return f"{100 * drop:.2f} points below"


class CrossEntropy(Metric):
    """The mean cross entropy, shown with the perplexity, its exponential."""

    name, axis, min_axis_range = "loss", "loss, nats a token", 0.05
    score_name = "minus the validation loss"

    def score(self, scores: Scores) -> float:
        """Returns minus the loss."""
        return -scores["loss"]

    def show(self, scores: Scores) -> str:
        """Returns loss and perplexity."""
        return f"{scores['loss']:.4f} (perplexity {scores['perplexity']:.3f})"

    def show_drop(self, drop: float) -> str:
        """Returns the increase in nats."""
        return f"{drop:.4f} nats above"


ACCURACY, LOSS = Accuracy(), CrossEntropy()
