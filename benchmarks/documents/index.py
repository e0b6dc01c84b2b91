"""The table of benchmarks: what each answers, where it is, and its result files."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalog import BENCHMARKS
from benchmarks.documents.results import DASH
from benchmarks.harness.provenance import duration
from benchmarks.harness.publish import RESULTS, Table, origin_of


def index(directory: Path = RESULTS) -> Table:
    """Returns one row a benchmark: its command, its question, its files with their origins.

    Args:
      directory: of results.
    """
    rows, records = [], {}
    for module in dict.fromkeys(each.module for each in BENCHMARKS):
        name = module.rpartition(".")[2]
        source = RESULTS.parent.joinpath(*module.split("."))
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        # Read, not imported: some benchmarks need packages of their own.
        about = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        line = " ".join(about.partition("\n\n")[0].split())
        found = _records(directory, name)
        links = [_link(path, record) for path, record in found.items()]
        rows.append((f"`python -m benchmarks {name}`", line, ", ".join(links) or DASH))
        records |= {path.stem: record for path, record in found.items()}
    rows.append(
        ("`make bench`", "All that it runs on two cores, without an accelerator.", _clock(records))
    )
    return Table(("command", "what it measures", "results"), rows)


def _records(directory: Path, name: str) -> dict[Path, dict[str, Any]]:
    """Returns the result files of a benchmark, read."""
    paths = [
        path
        for path in sorted(directory.glob("*.json"))
        if path.stem == name or path.stem.startswith(f"{name}-")
    ]
    return {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _link(path: Path, record: dict[str, Any]) -> str:
    """Returns a link to a result's table, with its day, commit and time."""
    table = path.with_suffix(".md")
    shown = table if table.exists() else path
    return f"[{path.stem}](results/{shown.name}) ({origin_of(record)})"


def _clock(records: Mapping[str, dict[str, Any]]) -> str:
    """Returns about the time by the clock of `make bench` on two cores: the sum of the parts.

    Those that run two at once, and were measured so, take half of their time. Runs that several
    share count in each.

    Args:
      records: results by name.
    """
    shares = [
        (record.get("seconds"), 2 if each.concurrent else 1)
        for each in BENCHMARKS
        if each.listed and not each.slow_on_cpu
        for name, record in records.items()
        if name == each.name or name.startswith(f"{each.name}-")
    ]
    timed = [seconds / share for seconds, share in shares if seconds is not None]
    total = duration(sum(timed)) if timed else DASH
    return total if len(timed) == len(shares) else f"{total} (of {len(timed)} of {len(shares)})"
