"""Time of a training step on the devices present, deep and compact, and its share of the peak.

`python -m benchmarks accelerator`: ViT-B/16 and GPT-2 124M in bfloat16, random weights, one batch
that stays on the device. `--preset tiny` is a check that takes seconds on a CPU.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks.harness.publish import RESULTS, Column, machine, publish, tabulate
from benchmarks.harness.timing import interleaved, ratio
from benchmarks.networks import FORMS, Network, gpt2, vit
from train.runtime.memory import keep_freed_memory

# Dense bfloat16 FLOPs per second of one device, by JAX's name of it; from the vendors' data sheets:
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
_BF16 = {"dtype": jnp.bfloat16}
_TINY = {"depth": 2, "width": 64, "num_heads": 2, "max_length": 64, "vocab_size": 512}
PRESETS: dict[str, tuple[Callable[[], Network], ...]] = {
    "full": (
        lambda: vit("B/16", batch_size=128, **_BF16),
        lambda: gpt2("124M", batch_size=16, **_BF16),
    ),
    "tiny": (
        lambda: vit("Ti/16", batch_size=2, depth=2, **_BF16),
        lambda: gpt2("124M", batch_size=2, **_TINY, **_BF16),
    ),
}


def measure(network: Network, rounds: int) -> dict[str, Any]:
    """Returns seconds, throughput and share of the peak (None if unknown) of both forms."""
    steps = {form: network.step(form) for form in FORMS}
    seconds = interleaved({form: step.call for form, step in steps.items()}, rounds=rounds)
    peak = PEAKS.get(jax.devices()[0].device_kind)
    batch = network.batch_size
    found: dict[str, Any] = {"network": network.name, "batch": batch, "unit": network.unit}
    for form, step in steps.items():
        median = statistics.median(seconds[form])
        found[form] = {
            "seconds": median,
            "units_per_second": batch * network.units / median,
            "flops": step.flops,
            "share_of_peak": None if peak is None else step.flops / median / peak,
        }
    return found | {"ratio": ratio(seconds["compact"], seconds["deep"])}


def _share(row: dict[str, Any]) -> float | None:
    share = row["of_form"]["share_of_peak"]
    return None if share is None else 100 * share


_COLUMNS = (
    Column("network", "network"),
    Column("batch", "batch"),
    Column("form", "form"),
    Column("ms per step", lambda row: 1e3 * row["of_form"]["seconds"], "{:.2f}"),
    Column("per second", lambda row: f"{row['of_form']['units_per_second']:,.0f} {row['unit']}"),
    Column("share of peak", _share, "{:.1f} %"),
    Column(
        "time / deep",
        lambda row: row["ratio"]["of_medians"] if row["form"] == "compact" else 1.0,
        "{:.3f}",
    ),
)


def main(
    preset: Literal["full", "tiny"] = "full", rounds: int = 50, results_dir: Path = RESULTS
) -> None:
    """Times steps, prints a table and writes a JSON named after the device.

    Args:
      preset: networks; tiny ones for a check.
      rounds: timed steps of each.
      results_dir: directory of results.
    """
    keep_freed_memory()
    found = [measure(make(), rounds) for make in PRESETS[preset]]
    rows = [each | {"form": form, "of_form": each[form]} for each in found for form in FORMS]
    name = "-".join(["accelerator", *machine()["device"].split()])
    config = {"preset": preset, "rounds": rounds, "dtype": "bfloat16"}
    publish(name, config, found, tabulate(_COLUMNS, rows), results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
