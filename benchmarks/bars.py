"""Lines with bars, as the pictures of benchmarks have them."""

import statistics
from collections.abc import Sequence
from typing import Any


def line(axes: Any, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any) -> None:
    """Draws a line through the means, with a bar from the lowest to the highest value at each.

    Args:
      axes: of matplotlib.
      x: where the points are.
      values: of each point, one a seed.
      **style: of `axes.errorbar`.
    """
    means = [statistics.mean(each) for each in values]
    low = [mean - min(each) for mean, each in zip(means, values, strict=True)]
    high = [max(each) - mean for mean, each in zip(means, values, strict=True)]
    axes.errorbar(x, means, yerr=[low, high], **style)
