"""Times every part of every model, and prints each as it comes.

`python -m benchmarks accelerator`: training step and forward pass of ViT-B/16, GPT-2 124M,
MiniLM-L6 and a SwiGLU decoder of 162 M parameters, and decoding by the two decoders; random weights
that are made on the device, bfloat16. Each in three forms: deep, one matrix a site, and half of the
hidden units. A speed-up is compared with the ratio of the FLOPs; of decoding with that of the bytes
of weights and cache. Where torch is installed, the deep models of `torch.compile` come last.
`--preset tiny` proves on a CPU, in two minutes, that every part runs.

Parts for which no time is left are listed at the end; name them with --parts and --models in
another call. With JAX_COMPILATION_CACHE_DIR set, that call compiles nothing again.
"""

import os
import statistics
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.accelerator.measure import line, measure
from benchmarks.accelerator.models import PRESETS, Model, PresetName
from benchmarks.accelerator.programs import Decoding, ForwardPass, Part, TrainingStep
from benchmarks.harness.publish import RESULTS, Column, machine, publish, tabulate
from train.runtime.memory import keep_freed_memory

PartName = Literal["step", "forward", "decoding", "pytorch"]
PARTS: tuple[PartName, ...] = ("step", "forward", "decoding", "pytorch")
_SLOTS, _TOKENS = 256, 32  # of a decoder's cache, and decoded in a call


def parts_of(model: Model, name: PartName) -> list[Part | str]:
    """Returns the parts of a model that a name stands for; of PyTorch their names."""
    if name == "step":
        return [TrainingStep(model)]
    if name == "forward":
        return [ForwardPass(model)]
    if name == "pytorch":
        return [TrainingStep.name, ForwardPass.name]
    slots = min(_SLOTS, model.network.units)
    batches = (1, 64) if model.decodes else ()
    return [Decoding(model, batch, min(_TOKENS, slots), slots) for batch in batches]


def planned(models: list[Model], parts: tuple[PartName, ...]) -> Iterator[tuple[Model, Part | str]]:
    """Yields what is measured, the training steps of all models first."""
    for name in parts:
        for model in models:
            for part in parts_of(model, name):
                yield model, part


def run(
    models: list[Model], parts: tuple[PartName, ...], rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measures part by part, and prints each.

    Returns:
      The rows, and the parts that were left out: another as long as the median one would have ended
      after the time.
    """
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    taken: list[float] = []
    start = time.perf_counter()
    for model, part in planned(models, parts):
        begin = time.perf_counter()
        if taken and begin - start + statistics.median(taken) > seconds:
            left.append(_described(model, part))
            continue
        if isinstance(part, str):
            from benchmarks.accelerator.torch_column import measure_torch

            deep = [row for row in rows if (row["model"], row["part"]) == (model.name, part)]
            found = [measure_torch(model, part, rounds, deep[0] if deep else None)]
        else:
            found = measure(model, part, rounds)
        rows += found
        print(f"{time.perf_counter() - start:4.0f} s  {line(found)}", flush=True)
        taken.append(time.perf_counter() - begin)
    return rows, left


def _described(model: Model, part: Part | str) -> str:
    if isinstance(part, str):
        return f"{model.name}, {part} in PyTorch"
    return f"{model.name}, {part.name} at batch {part.batch}"


def main(
    preset: PresetName = "full",
    parts: tuple[PartName, ...] = PARTS,
    models: tuple[str, ...] = (),
    rounds: int = 20,
    minutes: float = 3.0,
    results_dir: Path | None = None,
) -> None:
    """Times parts, prints each and a table, and writes a JSON named after the device.

    Args:
      preset: sizes of the models; tiny ones for a check.
      parts: in this order; those of PyTorch only where torch is installed.
      models: words in the names of models; by default all.
      rounds: timed calls of each form.
      minutes: in all; no part is begun that would end later.
      results_dir: directory of results; by default that of the repository, none of tiny models.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
    if preset == "tiny":  # whose times mean nothing
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    keep_freed_memory()
    made = [make() for make in PRESETS[preset]]
    chosen = [each for each in made if not models or any(word in each.name for word in models)]
    if find_spec("torch") is None:
        parts = tuple(part for part in parts if part != "pytorch")
        print("without PyTorch, which is not installed", flush=True)
    device = machine()["device"]
    print(f"{device}: {', '.join(each.name for each in chosen)}", flush=True)
    rows, left = run(chosen, parts, rounds, 60 * minutes)
    if left:
        print(f"no time was left for: {'; '.join(left)}", flush=True)
    table = tabulate(_COLUMNS, rows)
    if results_dir is None and preset != "full":
        print(table.text())
        return
    name = "-".join(["accelerator", *device.split()])
    config = {"preset": preset, "rounds": rounds, "minutes": minutes, "dtype": "bfloat16"}
    config |= {"without time": left}
    publish(name, config, rows, table, results_dir=results_dir or RESULTS)


_COLUMNS = (
    Column("model", "model"),
    Column("batch", "batch"),
    Column("part", "part"),
    Column("form", "form"),
    Column("ms", lambda row: 1e3 * row["seconds"], "{:.2f}"),
    Column("per second", lambda row: f"{row['per_second']:,.0f} {row['unit']}"),
    Column("share of peak", "share_of_peak", "{:.1%}"),
    Column("deep / time", "speed_up", "{:.2f}"),
    Column("promised", "promised", "{:.2f}"),
)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
