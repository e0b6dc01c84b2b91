"""The picture of a network before and after: one block for each MLP, as wide as it is."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lcjax.plots.picture import BLUE, GREEN, INK, ORANGE, RED, Picture, panels

Form = Literal["kept", "narrowed", "linear", "removed"]
_COLOURS: dict[Form, str] = {"kept": BLUE, "narrowed": GREEN, "linear": ORANGE, "removed": RED}


class Block(NamedTuple):
    """An MLP of the network.

    Attributes:
      name: its site.
      before: hidden units of the deep model.
      after: hidden units that stay.
      form: what it became.
      became: the same in words.
    """

    name: str
    before: int
    after: int
    form: Form
    became: str


def plot_network(blocks: Sequence[Block], sizes: tuple[int, int]) -> Picture:
    """Returns a picture of a network, deep and compact.

    Args:
      blocks: in forward order.
      sizes: parameters before and after.

    Raises:
      ImportError: without matplotlib.
    """
    rows = max(1, len(blocks))
    high = min(0.32, 24 / rows)
    text = max(4.0, min(9.0, 26 * high))
    figure, (before, after) = panels(
        2, (9.5, 1.5 + high * rows), sharex=True, sharey=True, width_ratios=(1, 1)
    )
    for place, block in enumerate(blocks):
        before.barh(place, block.before, height=0.62, color=BLUE)
        _label(before, place, block.before, f"{block.before:,}", BLUE, text)
        colour = _COLOURS[block.form]
        if block.form != "kept":  # what there was, as an outline
            outline = {"facecolor": "none", "edgecolor": INK, "linestyle": ":", "linewidth": 0.8}
            after.barh(place, block.before, height=0.62, **outline)
        after.barh(place, block.after, height=0.62, color=colour)
        if block.form == "linear":  # no hidden unit: the thickness of a matrix
            after.plot([0, 0], [place - 0.31, place + 0.31], color=colour, linewidth=3)
        _label(after, place, block.after, block.became, colour, text)
    before.set_yticks(range(len(blocks)), [block.name for block in blocks], fontsize=text)
    before.set_ylim(rows - 0.4, -0.6)  # the first one on top
    before.set_xlim(0, 1.05 * max([block.before for block in blocks], default=1))
    before.set_ylabel("MLP, from input to output")
    for axes, name, size in ((before, "before", sizes[0]), (after, "after", sizes[1])):
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("hidden units")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{name}: {size:,} parameters", loc="left", fontsize=10, color=INK)
    return Picture(figure)


def _label(axes, place: int, end: int, text: str, colour: str, size: float) -> None:
    axes.annotate(
        text,
        (end, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=size,
        annotation_clip=False,
    )
