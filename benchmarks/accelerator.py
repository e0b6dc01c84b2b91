"""Time of a training step on the machine at hand, deep and compact, and its share of the peak.

`python -m benchmarks.accelerator`: ViT-B/16 and GPT-2 124M in bfloat16, random weights, one batch
that stays on the device. `--preset tiny` is a check that takes seconds on a processor.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, machine, publish
from benchmarks.subjects import FORMS, Form, Subject, gpt2, vit
from train.engine.loop import TrainState
from train.runs.latency import flops
from train.runtime.memory import keep_freed_memory

# Dense bfloat16 FLOPs a second of one device, by what JAX calls it; from the vendors' data sheets:
# NVIDIA H100 (SXM), H200 and A100 Tensor Core GPU; Google Cloud TPU system architecture.
PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
}
PRESETS: dict[str, tuple[tuple[Callable[[], Subject], int], ...]] = {
    "full": ((lambda: vit("B/16"), 128), (lambda: gpt2("124M"), 16)),
    "tiny": (
        (lambda: vit("Ti/16", depth=2), 2),
        (lambda: gpt2("124M", depth=2, width=64, num_heads=2, max_length=64, vocab_size=512), 2),
    ),
}


def step(subject: Subject, form: Form, batch_size: int) -> tuple[Callable[[], Any], float]:
    """Returns a call that takes one training step, its state donated and kept, and its FLOPs."""
    variables = subject.init(jax.random.key(0))
    if form == "compact":
        variables, _ = lcjax.collapse(variables, threshold=float("inf"))
    held = TrainState.create(variables, subject.tx(form))
    inputs = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), subject.inputs(batch_size)
    )
    compiled: Any = subject.dispatch(form).lower(held, (), inputs).compile()

    def call() -> Any:
        nonlocal held
        held, metrics = compiled(held, (), inputs)
        return metrics

    return call, flops(compiled)


def measure(subject: Subject, batch_size: int, rounds: int) -> dict[str, Any]:
    """Returns, for both forms, seconds, units a second and share of the peak, if that is known."""
    steps = {form: step(subject, form, batch_size) for form in FORMS}
    seconds = interleaved({form: call for form, (call, _) in steps.items()}, rounds=rounds)
    peak = PEAKS.get(jax.devices()[0].device_kind)
    found: dict[str, Any] = {"network": subject.name, "batch": batch_size, "unit": subject.unit}
    for form, (_, count) in steps.items():
        median = statistics.median(seconds[form])
        found[form] = {
            "seconds": median,
            "units_per_second": batch_size * subject.units / median,
            "flops": count,
            "share_of_peak": None if peak is None else count / median / peak,
        }
    return found | {"ratio": ratio(seconds["compact"], seconds["deep"])}


def main(
    preset: Literal["full", "tiny"] = "full", rounds: int = 50, results_dir: Path = RESULTS
) -> None:
    """Times steps, prints a table and writes a JSON that is named after the device.

    Args:
      preset: which networks; tiny ones for a check.
      rounds: timed steps of each.
      results_dir: where results are written.
    """
    keep_freed_memory()
    found = [measure(make(), batch, rounds) for make, batch in PRESETS[preset]]
    headers = ("network", "batch", "form", "ms a step", "a second", "share of peak", "time / deep")
    rows = [_cells(each, form) for each in found for form in FORMS]
    name = "-".join(["accelerator", *machine()["device"].split()])
    config = {"preset": preset, "rounds": rounds, "dtype": "bfloat16"}
    publish(name, config, found, Table(headers, rows), results_dir=results_dir)


def _cells(found: dict[str, Any], form: Form) -> tuple[str, ...]:
    told, share = found[form], found[form]["share_of_peak"]
    compared = found["ratio"]["of_medians"] if form == "compact" else 1.0
    return (
        found["network"],
        str(found["batch"]),
        form,
        f"{1e3 * told['seconds']:.2f}",
        f"{told['units_per_second']:,.0f} {found['unit']}",
        "" if share is None else f"{100 * share:.1f} %",
        f"{compared:.3f}",
    )


if __name__ == "__main__":
    tyro.cli(main)
