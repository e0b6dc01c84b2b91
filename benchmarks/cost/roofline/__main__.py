"""The command: `python -m benchmarks roofline`."""

import dataclasses
import functools
import math
import operator
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tyro

import lcjax
from benchmarks.cost.roofline.operations import operations
from benchmarks.cost.roofline.rates import START, RatePrograms, Rates
from benchmarks.harness.hlo import KINDS, CompiledProgram, time_shares
from benchmarks.harness.publish import RESULTS, Column, publish, shares, tabulate
from benchmarks.harness.timing import interleaved, quartiles, ratio
from benchmarks.harness.training_runs import check_names
from benchmarks.networks import NETWORKS, Network
from train.runs.latency import compile_forward, flops
from train.runtime.memory import keep_freed_memory

NAMES = ("Fashion-MNIST Mixer", "CIFAR-10 Mixer", "CIFAR-10 ViT")


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns, for the full batch and one input, speed-ups and the times and bounds by kind."""
    network = NETWORKS[name]()
    deep = network.init(jax.random.key(0))
    compact, _ = lcjax.collapse(deep, network.sites(deep), lcjax.Exact(max_gap=math.inf))
    found, rates = [], None
    for batch in (network.batch_size, 1):
        inputs = network.module_inputs(batch)
        programs = {
            form: _program(network, variables, inputs)
            for form, variables in (("deep", deep), ("compact", compact))
        }
        calls = {form: program.call for form, program in programs.items()}
        alone = rate_programs(network, deep, inputs)
        of_rates = alone.calls() if rates is None else {}
        seconds = interleaved(calls | of_rates, rounds=rounds, untimed=1)
        rates = rates or alone.rates(seconds)
        found.append({"network": name, "batch": batch, **_compare(programs, seconds, rates)})
    return found


def rate_programs(network: Network, variables: Any, inputs: jax.Array) -> RatePrograms:
    """Returns the programs that measure the rates for the MLPs that collapse, on images."""
    module, path = network.module, network.sites(variables)[-1].split("/")[:-1]
    mlp = functools.reduce(operator.getitem, path, variables["params"])
    width, hidden = mlp["dense_0"]["kernel"].shape
    tokens = math.prod(edge // module.patch_size for edge in inputs.shape[1:3])
    arguments = variables, inputs
    return RatePrograms(len(inputs) * tokens, width, hidden, module.activation, arguments)


def _program(network: Network, variables: Any, inputs: jax.Array) -> CompiledProgram:
    compiled: Any = compile_forward(network.module.apply, variables, inputs)
    return CompiledProgram(compiled.as_text(), flops(compiled), lambda: compiled(variables, inputs))


def _compare(
    programs: Mapping[str, CompiledProgram], seconds: Mapping[str, list[float]], rates: Rates
) -> dict[str, Any]:
    """Returns the speed-ups, and what the compact program's time and bound consist of."""
    steps = {form: operations(program.text) for form, program in programs.items()}
    bounds = {form: rates.bounds(each) for form, each in steps.items()}
    least = {form: sum(each.values()) for form, each in bounds.items()}
    deep, compact = programs["deep"], programs["compact"]
    median = statistics.median(seconds["compact"])
    return {
        "promised": deep.flops / compact.flops,
        "possible": least["deep"] / least["compact"],
        "measured": ratio(seconds["deep"], seconds["compact"]),
        "milliseconds": 1e3 * median,
        "bound_milliseconds": 1e3 * least["compact"],
        "operations": len(steps["compact"]),
        "shares": time_shares(compact, calls=20),
        "bound_shares": {
            kind: bound / least["compact"] for kind, bound in bounds["compact"].items()
        },
        "rates": dataclasses.asdict(rates),
    }


def _over(row: dict[str, Any], limit: str) -> float:
    return row["measured"]["of_medians"] / row[limit]


_KINDS = tuple(kind for kind in KINDS if kind != "optimizer")
_COLUMNS = (
    Column("network", "network"),
    Column("batch", "batch"),
    Column("promised by FLOPs", "promised", "{:.2f}"),
    Column("possible by roofline", "possible", "{:.2f}"),
    Column("measured", "measured.of_medians", "{:.2f}"),
    Column("quartiles", lambda row: quartiles(row["measured"], digits=2)),
    Column("measured / promised", lambda row: _over(row, "promised"), "{:.2f}"),
    Column("measured / possible", lambda row: _over(row, "possible"), "{:.2f}"),
    Column("possible / promised", lambda row: row["possible"] / row["promised"], "{:.2f}"),
)
_OF_COMPACT = (
    Column("network", "network"),
    Column("batch", "batch"),
    Column("ms", "milliseconds", "{:.3f}"),
    Column("operations", "operations"),
    *shares("shares", _KINDS),
    Column("bound, ms", "bound_milliseconds", "{:.3f}"),
    *shares("bound_shares", (*_KINDS, START)),
)


def main(networks: tuple[str, ...] = NAMES, rounds: int = 60, results_dir: Path = RESULTS) -> None:
    """Measures, prints tables and writes a JSON.

    Args:
      networks: names of networks.
      rounds: timed calls of each program.
      results_dir: directory of results.
    """
    check_names("network", networks, NAMES)
    keep_freed_memory()
    found = [row for name in networks for row in measure(name, rounds)]
    tables = (
        tabulate(_COLUMNS, found, "Speed-up of the compact network"),
        tabulate(_OF_COMPACT, found, "Time of the compact network's operations, and its bound"),
    )
    config = {"rounds": rounds, "dtype": "float32"}
    publish("roofline", config, found, *tables, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
