"""Forms of MLPs against strong baselines: same network, number of parameters, and healing.

`python -m benchmarks forms`: resumes an interrupted benchmark; runs are kept. The size is that of
the network with some sites collapsed to one matrix each. Every way compresses the same finished
network to at most that size. It is measured untrained, and after healing with the deep network as
teacher, at the rate of one grid of three that is best on the validation split of the first seed.
`--quick` proves in minutes that every way runs, on scikit-learn's digits.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from benchmarks.baselines.registry import REGISTRY
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
from benchmarks.quality.form_networks import NETWORKS, QUICK_NETWORKS, FormNetwork

_MODULE = "benchmarks.baselines"


def untrained_run(network: FormNetwork, count: int, way: str) -> Run:
    """Returns the run of a way without healing."""
    source = network.source(count).name
    return Run(f"{source}-{way}", (_MODULE, way, RunDirectory(source), "--heal-epochs", "0"))


def healed_method(network: FormNetwork, count: int, way: str) -> Tuned:
    """Returns the runs of a way with healing."""
    source = network.source(count).name
    arguments = (_MODULE, way, RunDirectory(source), "--heal-epochs", network.heal_epochs)
    return Tuned(f"{source}-{way}-healed", arguments, network.rates)


def points(
    network: FormNetwork, ways: tuple[str, ...], seeds: tuple[int, ...], runs_dir: Path
) -> list[dict[str, Any]]:
    """Returns the results of a network: first the deep one, then every way at every size; JSON."""
    deep = network.deep.run
    found = run_all([deep], [deep.name], seeds=seeds, runs_dir=runs_dir)[deep.name]
    results = [_point("deep", "deep", deep, found)]
    for count in network.counts:
        start = [deep, network.source(count).run]
        for way in ways:
            title = REGISTRY[way].title
            if way in network.without:
                results.append({"way": title, "sites": count, "skipped": network.without[way]})
                continue
            own = untrained_run(network, count, way)
            runs = run_all([*start, own], [own.name], seeds=seeds, runs_dir=runs_dir)
            results.append(_point(title, "untrained", own, runs[own.name], sites=count))
            method = healed_method(network, count, way)
            rate, scores, runs = run_tuned(method, start, seeds=seeds, runs_dir=runs_dir)
            more = {"sites": count, "rate": rate, "validation_score_by_rate": scores}
            results.append(_point(title, "healed", method.run(rate), runs, **more))
    return results


def _point(
    way: str, state: str, run: Run, found: list[Summary], **more: Any
) -> dict[str, Any]:  # fmt: skip
    return {
        "way": way,
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
        skipped = [f"{row['way']}: {row['skipped']}" for row in rows if "skipped" in row]
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
    Column("way", "way"),
    Column("parameters", sizes),
    Column("time, %", percent("time_ratio"), "{:.1f}"),
    Column("rate", lambda point: point.get("rate")),
    Column("validation", _quality("validation")),
    Column("test", _quality("test")),
    Column("seeds", lambda point: len(point["test"])),
)


def main(
    networks: tuple[str, ...] = ("fashion-mlp",),
    ways: tuple[str, ...] = tuple(REGISTRY),
    counts: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints tables and writes a JSON for each network.

    Args:
      networks: names of networks.
      ways: names of ways: of lcjax, or of baselines.
      counts: numbers of collapsed sites that set the sizes; by default those of the network.
      seeds: of the runs.
      quick: two small networks with one seed and one rate, to prove that every way runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    chosen = QUICK_NETWORKS if quick else {name: NETWORKS[name] for name in networks}
    seeds = seeds[:1] if quick else seeds
    for network in chosen.values():
        network = dataclasses.replace(network, counts=counts) if counts else network
        results = points(network, ways, seeds, runs_dir)
        config = {"seeds": list(seeds), "rates": list(network.rates), "ways": list(ways)}
        shown = tables(network, results)
        publish(f"forms-{network.name}", config, results, *shown, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
