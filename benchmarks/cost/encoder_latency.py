"""Time that a compact encoder saves, compared with the FLOPs it saves: MiniLM-L6 at full size.

`python -m benchmarks encoder_latency`: random weights, as times do not depend on them. Deep and
compact forms are timed interleaved; ratios are of medians in one run. FLOPs promise a time in
proportion to them.
"""

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.timing import interleaved, ratio
from benchmarks.networks import minilm
from train.runs.latency import compile_forward, flops
from train.runtime.memory import keep_freed_memory

FORMS = {"deep": 0, "3 of 6 FFNs": 3, "4 of 6 FFNs": 4, "6 of 6 FFNs": 6}


def measure(batch: int, length: int, rounds: int) -> list[dict[str, Any]]:
    """Returns FLOPs and milliseconds of a call of every form, and ratios to the deep form."""
    network = minilm()
    tokens = jnp.ones((batch, length), jnp.int32)
    deep = network.init(jax.random.key(0))
    sites = lcjax.find_sites(deep).paths
    calls: dict[str, Callable[[], Any]] = {}
    counts = {}
    for form, count in FORMS.items():
        variables = deep
        if count:
            variables, _ = lcjax.collapse(deep, sites[-count:], lcjax.Exact(max_gap=math.inf))
        compiled = compile_forward(network.module.apply, variables, tokens)
        counts[form] = flops(compiled)
        calls[form] = lambda compiled=compiled, variables=variables: compiled(variables, tokens)
    seconds = interleaved(calls, rounds=rounds)
    return [
        {
            "form": form,
            "batch": batch,
            "length": length,
            "gflops": counts[form] / 1e9,
            "milliseconds": 1e3 * statistics.median(seconds[form]),
            "flops_ratio": counts[form] / counts["deep"],
            "time_ratio": ratio(seconds[form], seconds["deep"]),
        }
        for form in FORMS
    ]


_COLUMNS = (
    Column("batch", "batch"),
    Column("tokens", "length"),
    Column("form", "form"),
    Column("GFLOPs", "gflops", "{:.2f}"),
    Column("ms", "milliseconds", "{:.2f}"),
    Column("FLOPs / deep", "flops_ratio", "{:.3f}"),
    Column("time / deep", "time_ratio.of_medians", "{:.3f}"),
    Column(
        "speed-up / promised",
        lambda found: found["flops_ratio"] / found["time_ratio"]["of_medians"],
        "{:.2f}",
    ),
)


def main(
    batches: tuple[int, ...] = (1, 32),
    lengths: tuple[int, ...] = (32, 128),
    rounds: int = 40,
    results_dir: Path = RESULTS,
) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      batches: texts per call.
      lengths: tokens per text.
      rounds: timed calls of each form.
      results_dir: directory of results.
    """
    keep_freed_memory()
    found = [
        each
        for batch, length in itertools.product(batches, lengths)
        for each in measure(batch, length, rounds)
    ]
    table = tabulate(_COLUMNS, found)
    publish("encoder_latency", {"rounds": rounds}, found, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
