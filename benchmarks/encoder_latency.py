"""What a compact encoder saves in time, beside what it saves in FLOPs: MiniLM-L6 at full size.

`python -m benchmarks.encoder_latency`: weights at random, as times do not depend on them. Deep and
compact forms take turns; ratios are of medians in one run. What FLOPs promise is a time in their
proportion.
"""

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, publish
from lcjax.models import Bert
from train.runs.latency import compile_forward, flops
from train.runtime.memory import keep_freed_memory

FORMS = {"deep": 0, "3 of 6 FFNs": 3, "4 of 6 FFNs": 4, "6 of 6 FFNs": 6}


def measure(batch: int, length: int, rounds: int) -> list[dict[str, Any]]:
    """Returns, for every form, FLOPs and milliseconds of one call, and ratios to the deep one."""
    model = Bert.from_preset("MiniLM-L6", num_classes=2)
    tokens = jnp.ones((batch, length), jnp.int32)
    deep = model.init(jax.random.key(0), tokens[:, :3])
    sites = lcjax.find_sites(deep).paths
    calls: dict[str, Callable[[], Any]] = {}
    counts = {}
    for form, count in FORMS.items():
        variables = deep
        if count:
            variables, _ = lcjax.collapse(deep, sites[-count:], threshold=float("inf"))
        compiled = compile_forward(model.apply, variables, tokens)
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


def main(
    batches: tuple[int, ...] = (1, 32),
    lengths: tuple[int, ...] = (32, 128),
    rounds: int = 40,
    results_dir: Path = RESULTS,
) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      batches: texts a call.
      lengths: tokens a text.
      rounds: timed calls of each form.
      results_dir: where results are written.
    """
    keep_freed_memory()
    found = [
        each
        for batch, length in itertools.product(batches, lengths)
        for each in measure(batch, length, rounds)
    ]
    headers = ("batch", "tokens", "form", "GFLOPs", "ms", "FLOPs / deep", "time / deep",
               "speed-up / promised")  # fmt: skip
    table = Table(headers, [_cells(each) for each in found])
    publish("encoder_latency", {"rounds": rounds}, found, table, results_dir=results_dir)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(found["batch"]),
        str(found["length"]),
        found["form"],
        f"{found['gflops']:.2f}",
        f"{found['milliseconds']:.2f}",
        f"{found['flops_ratio']:.3f}",
        f"{found['time_ratio']['of_medians']:.3f}",
        f"{found['flops_ratio'] / found['time_ratio']['of_medians']:.2f}",
    )


if __name__ == "__main__":
    tyro.cli(main)
