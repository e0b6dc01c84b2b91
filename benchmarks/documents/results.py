"""Results of benchmarks, as the tables of documents read them."""

import json
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any

from benchmarks.harness.publish import RESULTS

DASH = "–"


def results(name: str) -> Any:
    """Returns the measurements of a benchmark.

    Args:
      name: of its file, without the suffix.
    """
    return _record(name)["results"]


def config(name: str) -> dict[str, Any]:
    """Returns the settings with which a benchmark ran.

    Args:
      name: of its file, without the suffix.
    """
    return _record(name)["config"]


@cache
def _record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def with_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Returns the mean and, of several values, the standard deviation between seeds."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def count(values: Sequence[float]) -> str:
    """Returns the mean of numbers of parameters, in whole numbers."""
    return f"{statistics.mean(values):,.0f}"


def shown_method(title: str) -> str:
    """Returns the title of a method; those of lcjax are bold."""
    return f"**{title}**" if title.startswith("lcjax") else title


def by_key(points: Sequence[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Returns points by the value of a key; of equal ones the first."""
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        found.setdefault(point[key], point)
    return found


def ratio(values: Sequence[float | None] | None) -> str:
    """Returns the mean of ratios that were measured, or a dash."""
    known = [value for value in values or () if value is not None]
    return f"{statistics.mean(known):.2f}" if known else DASH
