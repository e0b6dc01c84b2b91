"""Writes the tables of README and of the documentation: `python -m benchmarks.documents`.

A document has `<!-- table: NAME -->` and `<!-- end of table -->` on lines of their own; what is
between them is written from benchmarks/results. `--check` changes nothing and exits with status 1
if a document differs.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.documents import forms, index, quality, settings
from benchmarks.harness.publish import Table

ROOT = Path(__file__).parents[2]
TABLES: dict[str, Callable[[], Table]] = {
    "finished networks": forms.finished,
    "networks with recipes": partial(quality.overview, "recipes/"),
    "recipes": partial(quality.overview, ""),
    "methods": quality.comparison,
    "forms": forms.forms,
    "forms in equal time": forms.forms_in_equal_time,
    "planned MiniLM": quality.planned_minilm,
    "runtime": quality.runtime,
    "sizes": quality.sizes,
    "language": quality.language,
    "strength": partial(settings.sweep, "strength", "strength"),
    "max-gap": partial(settings.sweep, "max-gap", "max_gap"),
    "calibration": partial(settings.sweep, "calibration", "images"),
    "sites": partial(settings.sweep, "sites", "site"),
    "activation": partial(settings.sweep, "activation", "activation"),
    "width": partial(settings.sweep, "width", "width"),
    "depth": partial(settings.sweep, "depth", "hidden layers"),
    "time to accuracy": settings.time_to_accuracy,
    "unit slopes": settings.unit_slopes,
    "clients": settings.clients,
    "costs": settings.costs,
    "benchmarks": index.index,
    **{page: partial(quality.network, page) for page, _ in quality.NETWORKS.values()},
}
_MARKED = re.compile(r"^<!-- table: ([^\n]*) -->\n.*?^<!-- end of table -->$", re.S | re.M)


def documents() -> list[Path]:
    """Returns the documents of the repository that may hold tables."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    readmes = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "train" / "README.md"]
    return [*readmes, *(page for page in pages if "_build" not in page.parts)]


def updated(text: str) -> str:
    """Returns a document with its tables written from the results.

    Args:
      text: of the document.

    Raises:
      ValueError: a marker names no table.
    """

    def written(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(f"no table is called {match[1]!r}; there are {', '.join(TABLES)}.")
        table = TABLES[match[1]]().markdown()
        # Without the spaces and dashes that align columns: one long cell would widen all rows.
        table = re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", table))
        return f"<!-- table: {match[1]} -->\n\n{table}\n\n<!-- end of table -->"

    return _MARKED.sub(written, text)


def main(check: bool = False) -> int:
    """Writes the tables, and returns the exit status.

    Args:
      check: only compare.
    """
    stale = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := updated(text)) != text:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(path.relative_to(ROOT))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
