"""Forms of MLPs against strong baselines: same network, number of parameters, and healing.

`python -m benchmarks forms`: resumes an interrupted benchmark; runs are kept. The size is that of
the network with some sites collapsed to one matrix each. Every method compresses the same finished
network to at most that size. It is measured untrained, and after healing with the deep network as
teacher, at the rate of one grid of three that is best on the validation split of the first seed.
`--quick` proves in minutes that every method runs, on scikit-learn's digits.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from benchmarks.baselines.registry import REGISTRY
from benchmarks.form_networks import NETWORKS, QUICK_NETWORKS, FormNetwork
from benchmarks.harness.methods import costs, percent, sizes
from benchmarks.harness.publish import RESULTS, Column, Table, publish, tabulate
from benchmarks.harness.training_runs import (
    Run,
    RunDirectory,
    Summary,
    mean_and_deviation,
    run_all,
)
from benchmarks.harness.tuning import Tuned, run_tuned

_MODULE = "benchmarks.baselines"


def untrained_run(network: FormNetwork, count: int, method: str) -> Run:
    """Returns the run of a method without healing."""
    source = network.source(count).name
    return Run(f"{source}-{method}", (_MODULE, method, RunDirectory(source), "--heal-epochs", "0"))


def healed_runs(network: FormNetwork, count: int, method: str) -> Tuned:
    """Returns the runs of a method with healing, one for each rate."""
    source = network.source(count).name
    arguments = (_MODULE, method, RunDirectory(source), "--heal-epochs", network.heal_epochs)
    return Tuned(f"{source}-{method}-healed", arguments, network.rates)


def points(
    network: FormNetwork, methods: tuple[str, ...], seeds: tuple[int, ...], runs_dir: Path
) -> list[dict[str, Any]]:
    """Returns the results of a network: the deep one, then every method at every size; JSON."""
    deep = network.deep.run
    found = run_all([deep], [deep.name], seeds=seeds, runs_dir=runs_dir)[deep.name]
    results = [_point("deep", "deep", deep, found)]
    for count in network.counts:
        start = [deep, network.source(count).run]
        for method in methods:
            title = REGISTRY[method].title
            if method in network.without:
                reason = network.without[method]
                results.append({"method": title, "sites": count, "skipped": reason})
                continue
            own = untrained_run(network, count, method)
            runs = run_all([*start, own], [own.name], seeds=seeds, runs_dir=runs_dir)
            results.append(_point(title, "untrained", own, runs[own.name], sites=count))
            tuned = healed_runs(network, count, method)
            rate, scores, runs = run_tuned(tuned, start, seeds=seeds, runs_dir=runs_dir)
            more = {"sites": count, "rate": rate, "validation_score_by_rate": scores}
            results.append(_point(title, "healed", tuned.run(rate), runs, **more))
    return results


def _point(
    method: str, state: str, run: Run, found: list[Summary], **more: Any
) -> dict[str, Any]:  # fmt: skip
    return {
        "method": method,
        "state": state,
        "command": run.command,
        **costs(found),
        "metric": found[0]["metric"],
        "validation": [summary["compact"]["validation"] for summary in found],
        "test": [summary["compact"]["test"] for summary in found],
        **more,
    }


def tables(network: FormNetwork, results: list[dict[str, Any]]) -> list[Table]:
    """Returns one table of untrained and one of healed rows for every size."""
    deep, found = results[0], []
    for count in network.counts:
        rows = [each for each in results[1:] if each["sites"] == count]
        skipped = [f"{row['method']}: {row['skipped']}" for row in rows if "skipped" in row]
        for state in ("untrained", "healed"):
            own = [deep, *(row for row in rows if row.get("state") == state)]
            title = f"{network.name}, size of {count} collapsed sites, {state}"
            if skipped:
                title += f" (left out: {'; '.join(skipped)})"
            found.append(tabulate(_COLUMNS, own, title))
    return found


def _quality(split: str) -> Any:
    """Returns a column's value: accuracy in percent, or perplexity."""

    def value(point: dict[str, Any]) -> str:
        if point["metric"] == "accuracy":
            return mean_and_deviation([100 * each["accuracy"] for each in point[split]])
        return mean_and_deviation([each["perplexity"] for each in point[split]], digits=3)

    return value


_COLUMNS = (
    Column("method", "method"),
    Column("parameters", sizes),
    Column("time, %", percent("time_ratio"), "{:.1f}"),
    Column("rate", lambda point: point.get("rate")),
    Column("validation", _quality("validation")),
    Column("test", _quality("test")),
    Column("seeds", lambda point: len(point["test"])),
)


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    methods: tuple[str, ...] = tuple(REGISTRY),
    counts: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints tables and writes a JSON for each network.

    Args:
      networks: names of networks.
      methods: names of methods: of lcjax, or of baselines.
      counts: numbers of collapsed sites that set the sizes; by default those of the network.
      seeds: of the runs.
      quick: two small networks with one seed and one rate, to prove that every method runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.

    Raises:
      SystemExit: for an unknown network or method; when a run fails (names its log).
    """
    for name, names, known in (("networks", networks, NETWORKS), ("methods", methods, REGISTRY)):
        if unknown := sorted(set(names) - known.keys()):
            sys.exit(f"error: no such {name}: {', '.join(unknown)}; there are {', '.join(known)}.")
    chosen = QUICK_NETWORKS if quick else {name: NETWORKS[name] for name in networks}
    seeds = seeds[:1] if quick else seeds
    for network in chosen.values():
        network = dataclasses.replace(network, counts=counts) if counts else network
        results = points(network, methods, seeds, runs_dir)
        config = {"seeds": list(seeds), "rates": list(network.rates), "methods": list(methods)}
        shown = tables(network, results)
        publish(f"forms-{network.name}", config, results, *shown, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
