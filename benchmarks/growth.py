"""Times of a collapse and of a calibration as networks grow from 1 M to 1.5 B parameters.

`python -m benchmarks.growth`: decoders of GPT-2's shape, random bfloat16 weights. Every FFN is
collapsed: with slopes of 1, as an exact fuse, and with slopes of 0, by least squares on the
calibration of a pass over a few windows. A first call compiles, the second is reported.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.record import RESULTS, Table, publish
from lcjax.models import GPT2
from lcjax.tree.paths import is_slope
from train.runs.comparison import count_parameters
from train.runtime.memory import keep_freed_memory

SIZES: dict[str, dict[str, int]] = {
    "1M": dict(depth=4, width=128, num_heads=4, vocab_size=512, max_length=256),
    "10M": dict(depth=6, width=320, num_heads=5, vocab_size=8192, max_length=256),
    "124M": dict(depth=12, width=768, num_heads=12),
    "medium": dict(depth=24, width=1024, num_heads=16),
    "large": dict(depth=36, width=1280, num_heads=20),
    "XL": dict(depth=48, width=1600, num_heads=25),
}
WINDOWS, LENGTH = 4, 256


def random_decoder(model: GPT2, slope: float) -> Any:
    """Returns variables with random bfloat16 weights, and slopes of this value."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))

    def fill(keys: Any, leaf: Any) -> jax.Array:
        if is_slope(keys):
            return jnp.full(leaf.shape, slope, leaf.dtype)
        return 0.02 * jax.random.normal(jax.random.key(leaf.size), leaf.shape, jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Returns seconds of the first call, of the second, and what that returned."""
    seconds, out = [], None
    for _ in range(2):
        del out
        start = time.perf_counter()
        out = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], out


def measure(size: str) -> dict[str, Any]:
    """Returns parameters before and after, and seconds of what a collapse is made of."""
    fields: dict[str, Any] = SIZES[size]
    model = GPT2(**fields, dtype=jnp.bfloat16)
    return {"size": size, "tokens": WINDOWS * LENGTH, **_fused(model), **_fitted(model)}


def _fused(model: GPT2) -> dict[str, Any]:
    linear = random_decoder(model, 1.0)
    first, second, compact = timed(lambda: lcjax.collapse(linear)[0])
    return {
        "parameters": count_parameters(linear),
        "compact_parameters": count_parameters(compact),
        "first_fuse_seconds": first,
        "fuse_seconds": second,
    }


def _fitted(model: GPT2) -> dict[str, Any]:
    deep = random_decoder(model, 0.0)
    tokens = jax.random.randint(jax.random.key(1), (WINDOWS, LENGTH), 0, model.vocab_size)
    batches = [(window[None],) for window in tokens]
    first, second, stats = timed(
        lambda: lcjax.calibrate(model.apply, deep, batches, progress=False)
    )
    _, fitted, _ = timed(lambda: lcjax.collapse(deep, fit=stats)[0])
    return {
        "first_calibration_seconds": first,
        "calibration_seconds": second,
        "fitted_seconds": fitted,
    }


def main(sizes: tuple[str, ...] = tuple(SIZES), results_dir: Path = RESULTS) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      sizes: of the networks.
      results_dir: where results are written.
    """
    keep_freed_memory()
    found = [measure(size) for size in sizes]
    headers = ("size", "parameters", "→", "fuse, s", "ns a parameter",
               f"calibration on {WINDOWS * LENGTH:,} tokens, s", "collapse by it, s")  # fmt: skip
    table = Table(headers, [_cells(each) for each in found])
    publish("growth", {"dtype": "bfloat16"}, found, table, results_dir=results_dir)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["size"],
        f"{found['parameters']:,}",
        f"{found['compact_parameters']:,}",
        f"{found['fuse_seconds']:.2f}",
        f"{1e9 * found['fuse_seconds'] / found['parameters']:.1f}",
        f"{found['calibration_seconds']:.2f}",
        f"{found['fitted_seconds']:.2f}",
    )


if __name__ == "__main__":
    tyro.cli(main)
