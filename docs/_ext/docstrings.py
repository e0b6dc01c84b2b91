"""Docstrings of lcjax as reStructuredText: tables, and code that letters follow directly."""

import re

from sphinx.application import Sphinx

_FIELD = re.compile(r"activation$|.*_init$|param_dtype$|dtype$|parent$|name$")
_CODE = re.compile(r"`[^`]+`(?=(\w?))")


def as_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring with what Markdown writes in another way than rST.

    Args:
      lines: as written; a table is a run of lines that begin with a bar.
    """
    result: list[str] = []
    table: list[str] = []
    for line in [*lines, ""]:
        if line.lstrip().startswith("|"):
            table.append(line)
            continue
        if table:
            result += _list_table(table)
            table = []
        result.append(line)
    return _CODE.sub(_separated, "\n".join(result[:-1])).split("\n")


def _separated(code: re.Match[str]) -> str:
    """Returns code with an escape where a letter follows."""
    return code[0] + ("\\ " if code[1] else "")


def _list_table(rows: list[str]) -> list[str]:
    """Returns a Markdown table as a list-table."""
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [cells[0], *cells[2:]]:
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(row)]
    return [*lines, ""]


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list) -> None:
    lines[:] = as_rst(lines)


def _skip(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leaves out default values of fields, whose docstrings are those of other functions."""
    return True if what == "class" and callable(obj) and _FIELD.match(name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the conversion, after napoleon's."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _process, priority=900)
    return {"parallel_read_safe": True}
