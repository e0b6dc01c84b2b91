"""lcjax's `--protocol paper` and the published method in PyTorch: agreement, then speed.

`python -m benchmarks published_method`: needs the extra `torch`, and Fashion-MNIST. First both
train from the same weights on the same batches, and their differences are reported; then training
steps and forward passes of both are timed interleaved, in one process, with equal numbers of
threads.
"""

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import tyro

from benchmarks.harness.publish import RESULTS, Column, Table, publish, tabulate
from benchmarks.harness.timing import interleaved, quartiles, ratio
from benchmarks.pytorch.agreement import COMPARED, agreement, ready
from benchmarks.pytorch.timing import forward_calls, repeated, step_calls
from train.config.protocol import PaperConfig
from train.runtime.memory import keep_freed_memory
from train.tasks.image.config import ImageConfig
from train.tasks.image.presets import PRESETS

# Seconds: gcc's OpenMP threads spin for some milliseconds after a call.
REST = 0.02
STEPS_A_CALL = 10
# Passes per timed call, by batch size.
PASSES = {1: 100, 256: 10}


def published(preset: str, strength: float) -> ImageConfig:
    """Returns a preset trained by the published method, with a penalty on its last two sites."""
    config = PRESETS[preset][1]
    penalty = dataclasses.replace(config.penalty, strength=strength, last=2)
    return dataclasses.replace(config, penalty=penalty, protocol=PaperConfig())


def compared(seconds: Mapping[str, Sequence[float]], times: int) -> dict[str, Any]:
    """Returns milliseconds per repetition, and the ratio of each to lcjax's."""
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(taken) / times,
            "over lcjax": ratio(list(taken), list(seconds["lcjax"])),
        }
        for name, taken in seconds.items()
    }


def speed(config: ImageConfig, *, rounds: int, compiled: bool) -> dict[str, Any]:
    """Returns the times of a training step, and of a forward pass of either form."""
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
      steps: numbers of steps after which values are compared.
      rounds: timed calls of each.
      strength: of the penalty.
      threads: of PyTorch; XLA uses one per core.
      compiled: whether to time PyTorch with `torch.compile` too.
      results_dir: directory of results.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    results, tables = {}, []
    for preset in presets:
        image_config = published(preset, strength)
        values = [agreement(image_config, count) for count in steps]
        for found in values:
            title = f"{preset}, {found['steps']} steps: agrees to rounding: {found['agrees']}"
            rows = [(name, *(f"{each:.1e}" for each in found[name].values())) for name in COMPARED]
            tables.append(Table(("relative difference", *found[COMPARED[0]]), rows, title))
        times = speed(image_config, rounds=rounds, compiled=compiled)
        rows = [(what, *each) for what, found in times.items() for each in found.items()]
        tables.append(tabulate(_COLUMNS, rows, preset))
        results[preset] = {"agreement": values, "speed": times}
    config = {"rounds": rounds, "strength": strength, "threads": threads, "rest_seconds": REST}
    versions = {"steps_a_call": STEPS_A_CALL, "passes_a_call": PASSES, "torch": torch.__version__}
    publish("published_method", config | versions, results, *tables, results_dir=results_dir)


_COLUMNS = (
    Column("program", lambda row: row[0]),
    Column("library", lambda row: row[1]),
    Column("milliseconds", lambda row: row[2]["milliseconds"], "{:.3f}"),
    Column("× lcjax", lambda row: row[2]["over lcjax"]["of_medians"], "{:.2f}"),
    Column("quartiles", lambda row: quartiles(row[2]["over lcjax"], digits=2)),
)


if __name__ == "__main__":
    tyro.cli(main)
