"""Units that become linear in a ViT trained from scratch on CIFAR-10: chosen by data, or fixed.

`python -m benchmarks unit_slopes`: resumes an interrupted benchmark; runs are kept. The MLPs have 4
d hidden units. All arms take the same number of steps from the same initial weights:

- deep: slopes stay 0.
- a slope for each site: the penalty makes whole MLPs linear.
- a slope for each unit: the penalty makes single units linear, at the same price for a site.
- fixed: three quarters of the units of every MLP are linear from the first step on, as in RePaViT
  (arXiv 2505.21847), and slopes do not move.

Linear units fold into a linear map next to those that stay, wherever that is smaller; so the fixed
arm has 3 d² weights in an MLP of 8 d². Compare arms at equal parameters: strengths span sizes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.deep_runs import PLAIN
from benchmarks.harness.methods import Method, accuracy
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.training_runs import Summary, parameters, run_all
from benchmarks.networks import CIFAR10_VIT

SITE_STRENGTHS = ("0.003", "0.01", "0.03")
UNIT_STRENGTHS = ("0.01", "0.03", "0.1")
FIXED = ("0.75",)


def methods(epochs: float) -> Iterator[Method]:
    """Yields all arms, with this number of epochs each."""
    start = ("train.image", *CIFAR10_VIT, "--epochs", f"{epochs:g}")
    yield Method("deep", "units-deep", (*start, *PLAIN))
    for strength in SITE_STRENGTHS:
        title = f"lcjax: a slope for each site, λ = {strength}"
        yield Method(title, f"units-site-{strength}", (*start, "--strength", strength))
    per_unit = (*start, "--slope-per", "unit")
    for strength in UNIT_STRENGTHS:
        title = f"lcjax: a slope for each unit, λ = {strength}"
        yield Method(title, f"units-unit-{strength}", (*per_unit, "--strength", strength))
    for fraction in FIXED:
        title = f"{fraction} of the units linear from the start"
        arguments = (*per_unit, "--linear-units", fraction, *PLAIN)
        yield Method(title, f"units-fixed-{fraction}", arguments)


def row(method: Method, found: Sequence[Summary]) -> dict[str, Any]:
    """Returns the results of an arm's runs, one number per seed; JSON."""
    return {
        "method": method.title,
        "row": method.name,
        "command": method.run.command,
        "parameters": [parameters(summary) for summary in found],
        "collapsed": [len(summary["collapsed"]) for summary in found],
        "kept_units": [sum(summary.get("kept_units", {}).values()) for summary in found],
        "narrowed": [len(summary.get("kept_units", {})) for summary in found],
        "linear_units": [
            sum(site["linear_units"] or 0 for site in summary["sites"]) for summary in found
        ],
        "deep": [summary["deep"]["test"]["accuracy"] for summary in found],
        "validation": [summary["compact"]["validation"]["accuracy"] for summary in found],
        "accuracy": [summary["compact"]["test"]["accuracy"] for summary in found],
    }


def _span(key: str) -> Any:
    def value(row: dict[str, Any]) -> str:
        low, high = f"{min(row[key]):,}", f"{max(row[key]):,}"
        return low if low == high else f"{low} to {high}"

    return value


COLUMNS = (
    Column("arm", "method"),
    Column("parameters", _span("parameters")),
    Column("MLPs linear", _span("collapsed")),
    Column("MLPs narrowed", _span("narrowed")),
    Column("units linear", _span("linear_units")),
    Column("deep, test %", accuracy("deep")),
    Column("compact, validation %", accuracy("validation")),
    Column("compact, test %", accuracy("accuracy")),
    Column("seeds", lambda row: len(row["accuracy"])),
)


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: float = 6,
    rows: tuple[str, ...] = (),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints a table and writes a JSON.

    Args:
      seeds: of the runs.
      epochs: of every run.
      rows: names of the arms; all by default.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    arms = [arm for arm in methods(epochs) if not rows or arm.name in rows]
    runs = [arm.run for arm in arms]
    found = run_all(runs, [run.name for run in runs], seeds=seeds, runs_dir=runs_dir)
    results = [row(arm, found[arm.name]) for arm in arms]
    facts = {"seeds": list(seeds), "epochs": epochs}
    table = tabulate(COLUMNS, results)
    publish("unit_slopes", facts, results, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
