"""Results that print as tables: the same text in a terminal and HTML in a notebook."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from lcjax._messages import printable
from lcjax._table import render


class Table(NamedTuple):
    """A table of a result.

    Attributes:
      headers: names of the columns.
      rows: the cells of each row, one for each header.
      left: number of leading columns that are aligned left; the others are aligned right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


class Document(ABC):
    """A result made of tables and lines; prints as text, and a notebook shows it as HTML."""

    __slots__ = ()

    @abstractmethod
    def _parts(self) -> Sequence[Table | str]:
        """Returns the tables and lines, from the top."""

    def __str__(self) -> str:
        """Returns the tables and lines as text."""
        return "\n".join(
            part if isinstance(part, str) else render(part.headers, part.rows, left=part.left)
            for part in self._parts()
        )

    def _repr_html_(self) -> str:
        """Returns the same as HTML, in the colours of the page that shows it."""
        return "\n".join(
            f'<div style="white-space:pre-wrap">{escape(part)}</div>'
            if isinstance(part, str)
            else _html(part)
            for part in self._parts()
        )


def _html(table: Table) -> str:
    rows = [_row("th", table.headers, table.left)]
    rows += [_row("td", row, table.left) for row in table.rows]
    return (
        f'<table class="dataframe"><thead>{rows[0]}</thead><tbody>{"".join(rows[1:])}</tbody>'
        "</table>"
    )


def _row(tag: str, cells: Sequence[str], left: int) -> str:
    sides = ("left" if i < left else "right" for i in range(len(cells)))
    parts = (
        f'<{tag} style="text-align:{side}">{escape(printable(cell))}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(parts)}</tr>"
