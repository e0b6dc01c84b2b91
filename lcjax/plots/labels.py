"""Labels next to what they name, in place of a legend."""

from collections.abc import Sequence
from typing import Any


def spread(places: Sequence[float], least: float) -> list[float]:
    """Returns places at least so far apart, each as near to its own as the others let it.

    Args:
      places: in any order.
      least: distance between any two.

    Example:
      >>> spread([0.0, 5.0, 5.0], 1.0)
      [0.0, 4.5, 5.5]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    # Groups of touching labels, each [sum of places, indices]; a group is centred on its own.
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _start(places, groups[-1], least) < (
            _start(places, groups[-2], least) + len(groups[-2]) * least
        ):
            last = groups.pop()
            groups[-1] += last
    found = [0.0] * len(places)
    for group in groups:
        for number, i in enumerate(group):
            found[i] = _start(places, group, least) + number * least
    return found


def _start(places: Sequence[float], group: Sequence[int], least: float) -> float:
    """Returns the place of the first label of a group that is centred on its own places."""
    middle = sum(places[i] for i in group) / len(group)
    return middle - (len(group) - 1) * least / 2


def label_ends(
    axes: Any, ends: Sequence[tuple[str, float, float, str]], *, size: float = 9
) -> None:
    """Writes a label at the right of a panel for each line, at the height of its end.

    A thin line leads from a label that had to move to the end of its own.

    Args:
      axes: the panel, with its final limits and a linear y axis.
      ends: the text, x and y of the last point, and colour of each line.
      size: of the text, in points.
    """
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    height = axes.get_figure().get_figheight() * axes.get_position().height * 72
    heights = spread([y for _, _, y, _ in ends], 1.35 * size / height * (high - low))
    left = right + 0.04 * (right - axes.get_xlim()[0])
    for (text, x, y, colour), place in zip(ends, heights, strict=True):
        axes.text(left, place, text, color=colour, fontsize=size, va="center")
        line = {"color": colour, "linewidth": 0.6, "alpha": 0.6, "clip_on": False}
        ends_at = left - 0.1 * (left - right)
        axes.plot([x, ends_at], [y, place], scalex=False, scaley=False, **line)
