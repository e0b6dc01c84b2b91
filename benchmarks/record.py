"""Where figures are kept: one JSON a benchmark, with the machine it ran on, and its tables."""

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from lcjax._table import render

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a benchmark.

    Attributes:
      headers: names of the columns.
      rows: cells, as many a row as there are headers.
      title: what it is of, where there are several.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def text(self) -> str:
        """Returns the table with aligned columns."""
        return "\n".join(filter(None, [self.title, render(self.headers, self.rows)]))

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        table = render(self.headers, self.rows, markdown=True)
        return "\n\n".join(filter(None, [self.title, table]))


def publish(
    name: str,
    config: dict[str, Any],
    results: Any,
    *tables: Table,
    results_dir: Path = RESULTS,
) -> None:
    """Prints tables, and writes `results_dir/name.json` and, of the tables, `name.md`.

    Args:
      name: of the benchmark.
      config: with which it can be run again; JSON.
      results: what was measured; JSON.
      *tables: of the same, to be read.
      results_dir: where results are kept.
    """
    for table in tables:
        print(table.text())
    results_dir.mkdir(parents=True, exist_ok=True)
    path = results_dir / f"{name}.json"
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "config": config,
        "machine": machine(),
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    about = f"{record['date']}, {_words(record['machine'])}; {_settings(config)}"
    parts = [f"# {name}", about, *(table.markdown() for table in tables)]
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print(path)


def machine() -> dict[str, Any]:
    """Returns what a reader needs to know of the machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "python": platform.python_version(),
    }


def _words(found: dict[str, Any]) -> str:
    return (
        f"{found['processor']}, {found['cores']} cores, {found['device']}, jax {found['jax']}, "
        f"Python {found['python']}"
    )


def _settings(config: dict[str, Any]) -> str:
    return ", ".join(f"{key} `{value}`" for key, value in config.items())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
