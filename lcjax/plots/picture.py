"""A picture: drawn with matplotlib, shown by a notebook, saved as SVG, PNG or PDF."""

import io
import os
from pathlib import Path
from typing import Any, Self

from lcjax._optional import import_optional

# Colours of middle lightness: each can be read on a white and on a dark page (contrast over 3 with
# both), since the background is transparent.
INK, FAINT = "#767676", "#80808050"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2a78d0", "#d0661a", "#2b8a50", "#9a5fd0", "#d64550"
_SUFFIXES = (".svg", ".png", ".pdf")


class Picture:
    """A picture that a notebook shows and that `save` writes to a file.

    Its background is transparent, and its colours can be read on light and dark pages.

    Attributes:
      figure: the matplotlib figure, for changes of your own before it is saved.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), jax.nn.relu)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> _, report = lcjax.collapse(params, fit=lcjax.Exact(max_gap=1))
      >>> report.plot()
      <Picture of 2 panels: save(path) writes it, a notebook shows it>
    """

    def __init__(self, figure: Any):
        self.figure = figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture to a file.

        Args:
          path: of the file; its suffix says the format: .svg, .png (150 dots per inch) or .pdf.

        Raises:
          ValueError: another suffix.
          OSError: the file cannot be written.

        Example:
          >>> from matplotlib.figure import Figure
          >>> Picture(Figure()).save("network.jpg")
          Traceback (most recent call last):
          ValueError: network.jpg: got the suffix '.jpg', expected one of .svg, .png, .pdf.
        """
        path = Path(path)
        if path.suffix.lower() not in _SUFFIXES:
            raise ValueError(
                f"{path}: got the suffix {path.suffix!r}, expected one of {', '.join(_SUFFIXES)}."
            )
        self._write(path, path.suffix.lower()[1:])

    def saved(self, path: str | os.PathLike[str]) -> Self:
        """Returns the picture itself, once it is written to a file as `save` does."""
        self.save(path)
        return self

    def _write(self, target: Any, form: str) -> None:
        matplotlib = import_matplotlib()
        if self.figure.get_layout_engine() is not None:
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")  # which would move the panels at each draw
        # The same picture makes the same file.
        dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
        with matplotlib.rc_context({"svg.hashsalt": "lcjax"}):
            self.figure.savefig(
                target, format=form, dpi=150, bbox_inches="tight", metadata=dated, transparent=True
            )

    def _repr_svg_(self) -> str:
        """Returns the picture for a notebook."""
        file = io.BytesIO()
        self._write(file, "svg")
        text = file.getvalue().decode()
        return text[text.index("<svg") :]

    def __repr__(self) -> str:
        count = len(self.figure.axes)
        panels = "1 panel" if count == 1 else f"{count} panels"
        return f"<Picture of {panels}: save(path) writes it, a notebook shows it>"


def import_matplotlib() -> Any:
    """Returns matplotlib.

    Raises:
      ImportError: if it is not installed.
    """
    return import_optional("matplotlib", "Pictures need matplotlib", "lcjax[plots]")


def panels(
    count: int, size: tuple[float, float], *, across: bool = True, **options: Any
) -> tuple[Any, list[Any]]:
    """Returns a figure and its panels in the style of all pictures.

    Args:
      count: number of panels.
      size: of the figure, in inches.
      across: whether they are in a row, else in a column.
      **options: of `Figure.subplots`, such as `sharey`.

    Raises:
      ImportError: without matplotlib.
    """
    import_matplotlib()
    figure = import_optional(
        "matplotlib.figure", "Pictures need matplotlib", "lcjax[plots]"
    ).Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    shape = (1, count) if across else (count, 1)
    found = list(figure.subplots(*shape, squeeze=False, **options).flat)
    for axes in found:
        style(axes)
    return figure, found


def style(axes: Any) -> None:
    """Gives axes the colours that can be read on light and dark pages, without a frame."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
