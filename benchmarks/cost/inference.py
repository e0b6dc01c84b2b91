"""Costs of compact networks and baselines: parameters, FLOPs and time, relative to the deep form.

`python -m benchmarks inference`: the networks of `benchmarks.quality` with as many sites collapsed
as there, and two of published sizes with half of theirs; random weights, as costs do not depend on
them. Baselines run in their real shapes (`benchmarks.baselines.materialized`). All forms of a
network are timed interleaved, each after an untimed call of its own, so that at batch 1 it finds
its weights in the caches; ratios are of medians in one run.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

import lcjax
from benchmarks.baselines import materialized
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.timing import interleaved, quartiles, ratio
from benchmarks.harness.training_runs import check_names
from benchmarks.networks import NETWORKS, Network
from train.runs.latency import compile_forward, flops
from train.runtime.memory import keep_freed_memory

NAMES = (
    *("Fashion-MNIST MLP", "Fashion-MNIST Mixer", "CIFAR-10 ViT", "CIFAR-10 Mixer"),
    *("SST-2 MiniLM", "tiny_shakespeare GPT", "ViT-S/16", "Mixer-S/16"),
)
# Returns the variables of a form, from those of the deep one and the sites to collapse.
MakeForm = Callable[[Any, tuple[str, ...]], Any]
FORMS: dict[str, MakeForm] = {
    "deep": lambda deep, _: deep,
    "lcjax": lambda deep, sites: lcjax.collapse(deep, sites, lcjax.Exact(max_gap=math.inf))[0],
    "hidden units pruned": materialized.narrow,
    "low rank": materialized.factored,
    "MLPs dropped": materialized.without_mlps,
}


def make_forms(network: Network) -> dict[str, Any]:
    """Returns the variables of each form; a single MLP cannot be dropped, having no residual."""
    deep = network.init(jax.random.key(0))
    sites = network.sites(deep)
    single = len({site.rpartition("/")[0] for site in lcjax.find_sites(deep).paths}) == 1
    return {
        name: make(deep, sites)
        for name, make in FORMS.items()
        if not (single and make is materialized.without_mlps)
    }


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns the costs of every form of a network, and their ratios to those of the deep form."""
    network = NETWORKS[name]()
    forms, found = make_forms(network), {}
    for batch in (network.batch_size, 1):
        inputs = network.module_inputs(batch)
        with materialized.runnable():
            compiled = {
                form: compile_forward(network.module.apply, variables, inputs)
                for form, variables in forms.items()
            }
        calls = {
            form: lambda form=form, inputs=inputs, compiled=compiled: compiled[form](
                forms[form], inputs
            )
            for form in forms
        }
        seconds = interleaved(calls, rounds=rounds, untimed=1)
        for form in forms:
            row = found.setdefault(form, {"network": name, "form": form, "batches": {}})
            row["parameters"] = lcjax.count_parameters(forms[form])
            row["batches"][str(batch)] = {
                "flops": flops(compiled[form]),
                "flops_ratio": flops(compiled[form]) / flops(compiled["deep"]),
                "milliseconds": 1e3 * statistics.median(seconds[form]),
                "time_ratio": ratio(seconds[form], seconds["deep"]),
            }
    return list(found.values())


def _batch(position: int, value: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    """Returns a column's value: of the full batch (0) or of the single input (1)."""
    return lambda row: value(list(row["batches"].values())[position])


def _time_ratio(batch: dict[str, Any]) -> float:
    return batch["time_ratio"]["of_medians"]


def _realised(batch: dict[str, Any]) -> float:
    """Returns the speed-up over the one that FLOPs promise."""
    return batch["flops_ratio"] / _time_ratio(batch)


_COLUMNS = (
    Column("network", "network"),
    Column("form", "form"),
    Column("parameters", "parameters", "{:,}"),
    Column("batch", lambda row: next(iter(row["batches"]))),
    Column("FLOPs / deep", _batch(0, lambda batch: batch["flops_ratio"]), "{:.3f}"),
    Column("time / deep", _batch(0, _time_ratio), "{:.3f}"),
    Column("quartiles", _batch(0, lambda batch: quartiles(batch["time_ratio"]))),
    Column("speed-up / promised", _batch(0, _realised), "{:.2f}"),
    Column("time / deep, batch 1", _batch(1, _time_ratio), "{:.3f}"),
    Column("speed-up / promised, batch 1", _batch(1, _realised), "{:.2f}"),
)


def main(networks: tuple[str, ...] = NAMES, rounds: int = 40, results_dir: Path = RESULTS) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      networks: names of networks.
      rounds: timed calls of each form.
      results_dir: directory of results.
    """
    check_names("network", networks, NAMES)
    keep_freed_memory()
    found = [row for name in networks for row in measure(name, rounds)]
    config = {"rounds": rounds, "dtype": "float32"}
    publish("inference", config, found, tabulate(_COLUMNS, found), results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
