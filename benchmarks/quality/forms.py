"""Forms of MLPs against strong baselines: same network, number of parameters, and healing.

`python -m benchmarks forms`: resumes an interrupted benchmark; runs are kept. One process runs all
methods on one deep network. The size is that of
the network with some sites collapsed to one matrix each. Every method compresses the same finished
network to at most that size. It is measured untrained, and after healing with the deep network as
teacher, at the rate of one grid of three that is best on the validation split of the first seed.
`--quick` proves in minutes that every method runs, on scikit-learn's digits.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.baselines.registry import REGISTRY
from benchmarks.form_comparison import Row, missing, parse_methods, read_rows
from benchmarks.form_networks import NETWORKS, QUICK_NETWORKS, FormNetwork
from benchmarks.harness.methods import costs, percent, sizes
from benchmarks.harness.provenance import EARLIER_RUNS
from benchmarks.harness.publish import RESULTS, Column, Table, publish, tabulate
from benchmarks.harness.training_runs import (
    Run,
    Summary,
    check_names,
    mean_and_deviation,
    run_all,
    run_logged,
)
from benchmarks.harness.tuning import best_rate

_MODULE = "benchmarks.form_comparison"
_LOW_RANK = REGISTRY["whitened"].title  # in whose time "plan-time" is chosen


def points(
    network: FormNetwork, methods: tuple[str, ...], seeds: tuple[int, ...], runs_dir: Path
) -> list[dict[str, Any]]:
    """Returns the results of a network: the deep one, then every method at every size; JSON."""
    deep = network.deep.run
    found = run_all([deep], [deep.name], seeds=seeds, runs_dir=runs_dir)[deep.name]
    scores = [summary["compact"] for summary in found]
    results = [_point("deep", "deep", deep.command, found, scores)]
    for count in network.counts:
        reasons = {method: network.why_not(method, count) for method in methods}
        for method, reason in reasons.items():
            if reason is not None:
                row = {"method": REGISTRY[method].title, "sites": count}
                results.append(row | {"skipped": reason})
        own = [method for method, reason in reasons.items() if reason is None]
        results += _compared(network, count, own, seeds, runs_dir)
    return results


def _compared(
    network: FormNetwork, count: int, methods: Sequence[str], seeds: Sequence[int], runs_dir: Path
) -> Iterator[dict[str, Any]]:
    """Yields the results of methods at a size: the rate is the best of the grid for one seed."""
    source = network.source(count).run
    run_all([network.deep.run, source], [source.name], seeds=seeds, runs_dir=runs_dir)
    grid = dict.fromkeys(methods, network.rates)
    first = _rows(network, source, seeds[0], grid, runs_dir)
    for name in [name for name in methods if "skipped" in first[name]]:
        yield {"method": REGISTRY[name].title, "sites": count, "skipped": first[name]["skipped"]}
        del grid[name]
    tuned = {name: best_rate(_of(first[name], grid[name]), first[name]["metric"]) for name in grid}
    chosen = {name: (rate,) for name, (rate, _) in tuned.items()}
    rows = [first] + [_rows(network, source, seed, chosen, runs_dir) for seed in seeds[1:]]
    for name, (rate, scores) in tuned.items():
        found, title = [each[name] for each in rows], REGISTRY[name].title
        each = f"python -m {_MODULE} {{{source.name}}} {name}"
        more: dict[str, Any] = {"sites": count}
        if all(row.get("times") for row in found):
            more["times"] = [row["times"] for row in found]
        untrained = [row["untrained"] for row in found]
        yield _point(title, "untrained", each, found, untrained, **more)
        healed = [row["healed"][rate] for row in found]
        each += f"={rate} --heal-epochs {network.heal_epochs}"
        more |= {"rate": rate, "validation_score_by_rate": scores}
        yield _point(title, "healed", each, found, healed, **more)


def _of(row: Row, rates: Sequence[str]) -> dict[str, Any]:
    return {rate: row["healed"][rate] for rate in rates}


def _rows(
    network: FormNetwork,
    source: Run,
    seed: int,
    methods: Mapping[str, Sequence[str]],
    runs_dir: Path,
) -> dict[str, Row]:
    """Returns the rows of methods with a seed; runs those that are not in the seed's file.

    Raises:
      SystemExit: when the process fails (names its log).
    """
    out = runs_dir / f"{source.name}-{seed}-methods.json"
    texts = [f"{name}={','.join(rates)}" for name, rates in methods.items()]
    EARLIER_RUNS.use(out.with_suffix(".log"))
    if missing(read_rows(out), parse_methods(texts)):
        line = [str(runs_dir / f"{source.name}-{seed}"), *texts, "--out", str(out)]
        line += ["--heal-epochs", network.heal_epochs, "--seed", str(seed)]
        run_logged(_MODULE, line, out.with_suffix(".log"))
    return read_rows(out)


def _point(
    method: str,
    state: str,
    command: str,
    found: Sequence[Summary],
    scores: Sequence[dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    return {
        "method": method,
        "state": state,
        "command": command,
        **costs(found),
        "metric": found[0]["metric"],
        "validation": [each["validation"] for each in scores],
        "test": [each["test"] for each in scores],
        **more,
    }


def tables(network: FormNetwork, results: list[dict[str, Any]]) -> list[Table]:
    """Returns one table of untrained and one of healed rows for every size, and one of times."""
    deep, found = results[0], []
    for count in network.counts:
        rows = [each for each in results[1:] if each["sites"] == count]
        skipped = [f"{row['method']}: {row['skipped']}" for row in rows if "skipped" in row]
        for state in ("untrained", "healed"):
            same_size = [row for row in rows if "times" not in row and row.get("state") == state]
            own = [deep, *same_size]
            title = f"{network.name}, size of {count} collapsed sites, {state}"
            if skipped:
                title += f" (left out: {'; '.join(skipped)})"
            found.append(tabulate(_COLUMNS, own, title))
        if timed := [row for row in rows if "times" in row]:
            low_rank = [row for row in rows if row["method"] == _LOW_RANK and "state" in row]
            own = [{**row, "times": timed[0]["times"]} for row in low_rank] + timed
            title = f"{network.name}, in the time of low rank at the size of {count} sites"
            found.append(tabulate(_TIMED_COLUMNS, own, title))
    return found


def _quality(split: str) -> Any:
    """Returns a column's value: accuracy in percent, or perplexity."""

    def value(point: dict[str, Any]) -> str:
        if point["metric"] == "accuracy":
            return mean_and_deviation([100 * each["accuracy"] for each in point[split]])
        return mean_and_deviation([each["perplexity"] for each in point[split]], digits=3)

    return value


def _times(point: dict[str, Any]) -> str:
    """Returns a column's value: times in percent of the deep model's, interleaved in one run."""
    name = "low rank" if point["method"] == _LOW_RANK else "plan"
    return mean_and_deviation([100 * each[name] for each in point["times"]], digits=1)


_COLUMNS = (
    Column("method", "method"),
    Column("parameters", sizes),
    Column("time, %", percent("time_ratio"), "{:.1f}"),
    Column("rate", lambda point: point.get("rate")),
    Column("validation", _quality("validation")),
    Column("test", _quality("test")),
    Column("seeds", lambda point: len(point["test"])),
)
_TIMED_COLUMNS = (
    _COLUMNS[0],
    Column("state", "state"),
    _COLUMNS[1],
    Column("time, %", _times),
    *_COLUMNS[3:],
)


def main(
    networks: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    counts: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints tables and writes a JSON for each network.

    Args:
      networks: names of networks; all by default.
      methods: names of methods, of lcjax or of baselines; by default those of the network.
      counts: numbers of collapsed sites that set the sizes; by default those of the network.
      seeds: of the runs.
      quick: small networks with one seed and one rate, to prove that every method runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.

    Raises:
      SystemExit: for an unknown network or method; when a run fails (names its log).
    """
    known = QUICK_NETWORKS if quick else NETWORKS
    check_names("networks", networks, known)
    check_names("methods", methods, REGISTRY)
    seeds = seeds[:1] if quick else seeds
    for name in networks or known:
        network = known[name]
        network = dataclasses.replace(network, counts=counts) if counts else network
        own = methods or network.methods
        results = points(network, own, seeds, runs_dir)
        config = {"seeds": list(seeds), "rates": list(network.rates), "methods": list(own)}
        shown = tables(network, results)
        publish(f"forms-{network.name}", config, results, *shown, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
