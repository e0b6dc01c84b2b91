"""lcjax's `--protocol reference` against the published method in PyTorch: values, then speed.

`python -m benchmarks.published_torch`: asks for the extra `torch`, and Fashion-MNIST. First both
train from the same weights on the same batches, and how far apart they come is told; then they take
turns, in one process and with as many threads each, at training steps and at forward passes.
"""

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import tyro

from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, publish
from benchmarks.torch_reference.agreement import COMPARED, agreement, ready
from benchmarks.torch_reference.timing import forward_calls, repeated, step_calls
from train.runtime.memory import keep_freed_memory
from train.tasks.image.config import ImageConfig
from train.tasks.image.presets import PRESETS

# Seconds: gcc's OpenMP threads look for work for some milliseconds after a call.
REST = 0.02
STEPS_A_CALL = 10
# The smaller the batch, the more passes a timed call makes.
PASSES = {1: 100, 256: 10}


def published(preset: str, strength: float) -> ImageConfig:
    """Returns a preset under the published method, its last two sites penalised."""
    config = PRESETS[preset][1]
    penalty = dataclasses.replace(config.penalty, strength=strength, last=2)
    protocol = dataclasses.replace(config.protocol, protocol="reference")
    return dataclasses.replace(config, penalty=penalty, protocol=protocol)


def compared(seconds: Mapping[str, Sequence[float]], times: int) -> dict[str, Any]:
    """Returns milliseconds of one of so many times, and the ratio of each to lcjax's."""
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(taken) / times,
            "over lcjax": ratio(list(taken), list(seconds["lcjax"])),
        }
        for name, taken in seconds.items()
    }


def speed(config: ImageConfig, *, rounds: int, compiled: bool) -> dict[str, Any]:
    """Returns what a training step takes, and a forward pass of either form."""
    job = ready(config)
    calls = step_calls(job, STEPS_A_CALL, compiled=compiled)
    found = {
        f"training step, batch {config.data.batch_size}": compared(
            interleaved(calls, rounds=rounds, rest=REST), STEPS_A_CALL
        )
    }
    for form in ("deep", "compact"):
        for batch, passes in PASSES.items():
            calls = repeated(forward_calls(job, form, batch, compiled=compiled), passes)
            seconds = interleaved(calls, rounds=rounds, rest=REST)
            found[f"{form} forward pass, batch {batch}"] = compared(seconds, passes)
    return found


def main(
    presets: tuple[str, ...] = ("fashion-mlp", "fashion-mixer"),
    steps: tuple[int, ...] = (5, 50),
    rounds: int = 30,
    strength: float = 10.0,
    threads: int = len(os.sched_getaffinity(0)),
    compiled: bool = True,
    results_dir: Path = RESULTS,
) -> None:
    """Measures, prints tables and writes a JSON.

    Args:
      presets: of train.image; MLPs or Mixers.
      steps: after which values are compared.
      rounds: timed calls of each.
      strength: of the penalty.
      threads: of PyTorch; XLA takes one a core.
      compiled: whether PyTorch is timed with `torch.compile` too.
      results_dir: where results are written.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    results, tables = {}, []
    for preset in presets:
        config = published(preset, strength)
        values = [agreement(config, count) for count in steps]
        for found in values:
            title = f"{preset}, {found['steps']} steps: agrees to rounding: {found['agrees']}"
            rows = [(name, *(f"{each:.1e}" for each in found[name].values())) for name in COMPARED]
            tables.append(Table(("relative difference", *found[COMPARED[0]]), rows, title))
        times = speed(config, rounds=rounds, compiled=compiled)
        headers = (f"{preset}, milliseconds", "", "", "× lcjax", "quartiles")
        tables.append(Table(headers, list(_rows(times))))
        results[preset] = {"agreement": values, "speed": times}
    asked = {"rounds": rounds, "strength": strength, "threads": threads, "rest_seconds": REST}
    about = {"steps_a_call": STEPS_A_CALL, "passes_a_call": PASSES, "torch": torch.__version__}
    publish("published_torch", asked | about, results, *tables, results_dir=results_dir)


def _rows(times: Mapping[str, Any]) -> Any:
    for what, found in times.items():
        for name, each in found.items():
            over = each["over lcjax"]
            quartiles = f"{over['lower_quartile']:.2f} to {over['upper_quartile']:.2f}"
            cells = (f"{each['milliseconds']:.3f}", f"{over['of_medians']:.2f}", quartiles)
            yield (what, name, *cells)


if __name__ == "__main__":
    tyro.cli(main)
