"""Result files: one JSON per benchmark, with its machine, commit and time, and its tables."""

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness.provenance import EARLIER_RUNS, STARTED_AT, STOPWATCH, duration
from lcjax._table import render

RESULTS = Path(__file__).parents[1] / "results"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a benchmark.

    Attributes:
      headers: names of the columns.
      rows: cells; each row has one per header.
      title: shown above the table.
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


@dataclasses.dataclass(frozen=True)
class Column:
    """How a column shows one value of a record.

    Attributes:
      header: of the column.
      value: a key of the record, "outer.inner" for a nested one, or a function of the record.
      format: of the value, as for `str.format`; a dash replaces None.
    """

    header: str
    value: str | Callable[[Any], Any]
    format: str = "{}"

    def cell(self, record: Any) -> str:
        """Returns the record's text in this column."""
        if callable(self.value):
            value = self.value(record)
        else:
            value = record
            for key in self.value.split("."):
                value = value[key]
        return "–" if value is None else self.format.format(value)


def tabulate(columns: Sequence[Column], records: Iterable[Any], title: str = "") -> Table:
    """Returns a table with one row per record."""
    rows = [[column.cell(record) for column in columns] for record in records]
    return Table([column.header for column in columns], rows, title)


def shares(key: str, kinds: Iterable[str]) -> Iterator[Column]:
    """Yields a column for each kind: its share in percent, from a record's fractions by kind.

    Args:
      key: of the fractions.
      kinds: also the headers.
    """
    for kind in kinds:
        yield Column(kind, lambda record, kind=kind: 100 * record[key][kind], "{:.0f} %")


def publish(
    name: str,
    config: dict[str, Any],
    results: Any,
    *tables: Table,
    results_dir: Path = RESULTS,
) -> None:
    """Prints tables and writes `results_dir/name.json` and `name.md`.

    The record has the commit at the start of the process, None outside of a repository, and the
    seconds since then or since the last result of the process, with those of the training runs
    that earlier processes made. A run that two benchmarks share counts for both.

    Args:
      name: of the benchmark.
      config: settings that reproduce it; JSON.
      results: measurements; JSON.
      *tables: of the results, for readers.
      results_dir: directory of results.
    """
    for table in tables:
        print(table.text())
    results_dir.mkdir(parents=True, exist_ok=True)
    path = results_dir / f"{name}.json"
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": STARTED_AT,
        "seconds": round(STOPWATCH.lap() + EARLIER_RUNS.take(), 1),
        "config": config,
        "machine": machine(),
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    origin = f"{origin_of(record)}, {_describe(record['machine'])}; {_settings(config)}"
    sections = [f"# {name}", origin, *(table.markdown() for table in tables)]
    path.with_suffix(".md").write_text("\n\n".join(sections) + "\n")
    print(path)


def origin_of(record: dict[str, Any]) -> str:
    """Returns day, commit and time of a result, as far as it has them.

    Args:
      record: of `publish`; old ones have no time, and the commit that they were added in.
    """
    found = [record["date"]]
    if commit := record.get("commit"):
        head, dirty, _ = commit.partition("-dirty")
        found.append(f"commit {head[:9]}{dirty}")
    elif added := record.get("recorded_in"):
        found.append(f"added in {added[:9]}")
    if "seconds" in record:
        found.append(duration(record["seconds"]))
    return ", ".join(found)


def machine() -> dict[str, Any]:
    """Returns the machine and the versions that times depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "python": platform.python_version(),
    }


def _describe(found: dict[str, Any]) -> str:
    cores = "1 core" if found["cores"] == 1 else f"{found['cores']} cores"
    return (
        f"{found['processor']}, {cores}, {found['device']}, jax {found['jax']}, "
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
