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
    """Returns a table with aligned columns as text, no line of which is wrapped or cut.

    Args:
      headers: names of the columns.
      rows: cells, as many a row as there are headers.
      left: how many leading columns are aligned to the left; the others are to the right.
      markdown: whether the text is to be Markdown.
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
    console = Console(file=io.StringIO(), width=10_000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(filter(None, map(str.rstrip, capture.get().splitlines())))
