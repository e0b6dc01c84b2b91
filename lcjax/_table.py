"""Tables as plain text."""

import io
from collections.abc import Sequence

from lcjax._messages import printable


def render(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    markdown: bool = False,
) -> str:
    """Returns a table as text with aligned columns; lines are neither wrapped nor cut.

    Args:
      headers: names of the columns.
      rows: the cells of each row, one for each header.
      left: number of leading columns that are aligned left; the others are aligned right.
      markdown: whether to return a Markdown table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    form = box.MARKDOWN if markdown else box.SIMPLE_HEAD
    table = Table(box=form, pad_edge=markdown, show_edge=markdown)
    for i, header in enumerate(headers):
        table.add_column(Text(header), justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # In a notebook rich would show an empty output for every table.
    console = Console(file=io.StringIO(), width=10_000, color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(filter(None, map(str.rstrip, capture.get().splitlines())))
