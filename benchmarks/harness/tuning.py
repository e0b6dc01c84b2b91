"""The rate of healing of a method: chosen from a grid on the validation split of one seed."""

from collections.abc import Mapping
from typing import Any

from train.tasks.metric import ACCURACY, LOSS

_METRICS = {metric.name: metric for metric in (ACCURACY, LOSS)}


def best_rate(healed: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, dict[str, float]]:
    """Returns the rate with the best validation score, and the scores by rate; higher is better.

    Args:
      healed: scores by rate, each with those of the split "validation".
      metric: name of the metric.
    """
    score = _METRICS[metric].score
    scores = {rate: score(each["validation"]) for rate, each in healed.items()}
    return max(scores, key=lambda rate: scores[rate]), scores
