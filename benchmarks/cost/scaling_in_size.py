"""Times of a collapse and of a calibration for networks of 1 M to 1.5 B parameters.

`python -m benchmarks scaling_in_size`: decoders of GPT-2's shape, random bfloat16 weights. Every
FFN collapses: with slopes of 1 by an exact fuse, and with slopes of 0 by least squares, calibrated
on a few windows. The second call of each is reported. A calibration compiles in every call, since
values that its functions read from outside may have changed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.networks import Network, gpt2
from train.runtime.memory import keep_freed_memory

# Sizes below the published ones.
SMALLER: dict[str, dict[str, int]] = {
    "1M": dict(depth=4, width=128, num_heads=4, vocab_size=512, max_length=256),
    "10M": dict(depth=6, width=320, num_heads=5, vocab_size=8192, max_length=256),
}
SIZES = (*SMALLER, "124M", "medium", "large", "XL")
WINDOWS, LENGTH = 4, 256


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Returns seconds of the first call, of the second, and the output of the second."""
    seconds, out = [], None
    for _ in range(2):
        del out
        start = time.perf_counter()
        out = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], out


def measure(size: str) -> dict[str, Any]:
    """Returns parameters before and after, and seconds of fuse, calibration and fit."""
    fields: dict[str, Any] = SMALLER.get(size, {})
    network = gpt2("124M" if fields else size, **fields, dtype=jnp.bfloat16)
    return {"size": size, "tokens": WINDOWS * LENGTH, **_fused(network), **_fitted(network)}


def _fused(network: Network) -> dict[str, Any]:
    linear = network.random_variables("bfloat16", slope=1.0)
    first, second, compact = timed(lambda: lcjax.collapse(linear)[0])
    return {
        "parameters": lcjax.count_parameters(linear),
        "compact_parameters": lcjax.count_parameters(compact),
        "first_fuse_seconds": first,
        "fuse_seconds": second,
    }


def _fitted(network: Network) -> dict[str, Any]:
    deep, module = network.random_variables("bfloat16", slope=0.0), network.module
    tokens = jax.random.randint(jax.random.key(1), (WINDOWS, LENGTH), 0, module.vocab_size)
    data = lcjax.CalibrationData([(window[None],) for window in tokens], progress=False)
    first, second, stats = timed(lambda: lcjax.calibrate(module.apply, deep, data))
    _, fitted, _ = timed(lambda: lcjax.collapse(deep, calibration=stats)[0])
    return {
        "first_calibration_seconds": first,
        "calibration_seconds": second,
        "fitted_seconds": fitted,
    }


def _nanoseconds(found: dict[str, Any]) -> float:
    return 1e9 * found["fuse_seconds"] / found["parameters"]


_COLUMNS = (
    Column("size", "size"),
    Column("parameters", "parameters", "{:,}"),
    Column("→", "compact_parameters", "{:,}"),
    Column("fuse, s", "fuse_seconds", "{:.2f}"),
    Column("ns per parameter", _nanoseconds, "{:.1f}"),
    Column(
        f"calibration on {WINDOWS * LENGTH:,} tokens, compilation included, s",
        "calibration_seconds",
        "{:.2f}",
    ),
    Column("calibrated collapse, s", "fitted_seconds", "{:.2f}"),
)


def main(sizes: tuple[str, ...] = SIZES, results_dir: Path = RESULTS) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      sizes: of the networks.
      results_dir: directory of results.
    """
    keep_freed_memory()
    found = [measure(size) for size in sizes]
    table = tabulate(_COLUMNS, found)
    publish("scaling_in_size", {"dtype": "bfloat16"}, found, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
