"""Profile of a training step, and the effect of three optimizations: before and after.

`python -m benchmarks step_profile`: the small Mixer, ViT, encoder (MiniLM-L6) and decoder of the
presets. Before: dense layers on (batch, tokens, width), the exact form of `nn.gelu` and
`jax.nn.dot_product_attention`. After: the training loop and `lcjax.models` as they are: dense
layers (except attention's) on flat tokens in training, `exact_gelu`, and `attend`. Compact
inference has the later half of the MLPs fused. Both are timed interleaved in one run; a trace of
the version after gives the shares.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flax.linen as nn
import jax
import tyro

from benchmarks.harness.hlo import KINDS, CompiledProgram, time_shares
from benchmarks.harness.publish import RESULTS, Column, publish, shares, tabulate
from benchmarks.harness.timing import interleaved, ratio
from benchmarks.networks import FASHION, Network, decoder, image_network, minilm
from lcjax.models import attention
from lcjax.models.activations import exact_gelu
from train.engine import loop
from train.runtime.memory import keep_freed_memory

PRESETS: dict[str, Callable[[], Network]] = {
    "fashion-mixer": partial(image_network, "fashion-mixer", ("fashion-mixer",), FASHION),
    "fashion-vit": partial(image_network, "fashion-vit", ("fashion-vit",), FASHION),
    "sst2-minilm": minilm,
    "shakespeare-small": decoder,
}


@contextmanager
def unoptimized() -> Iterator[None]:
    """Traces programs without the optimizations of attention and of dense layers."""

    def attend(*given: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return jax.nn.dot_product_attention(*given, mask=mask)

    with patch.object(attention, "attend", attend), patch.object(loop, "flat_tokens", nullcontext):
        yield


def with_gelu(network: Network, gelu: Callable[[jax.Array], jax.Array]) -> Network:
    """Returns the network with another form of the exact GELU, if that is its activation."""
    if network.module.activation is not exact_gelu:
        return network
    module = network.module.clone(activation=gelu)
    objective = dataclasses.replace(network.objective, module=module)
    return dataclasses.replace(network, objective=objective)


def programs(network: Network) -> dict[str, dict[str, CompiledProgram]]:
    """Returns the step and the forward pass, before and after the optimizations."""
    plain = with_gelu(network, partial(nn.gelu, approximate=False))
    with unoptimized():
        before = plain.step(), plain.compact_forward()
    after = network.step(), network.compact_forward()
    names = ("training step", "compact inference")
    pairs = zip(names, before, after, strict=True)
    return {name: {"before": one, "after": other} for name, one, other in pairs}


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns, for a preset's two programs, milliseconds of both versions and the shares."""
    found = []
    for program, versions in programs(PRESETS[name]()).items():
        calls = {version: each.call for version, each in versions.items()}
        seconds = interleaved(calls, rounds=rounds)
        medians = {version: 1e3 * statistics.median(times) for version, times in seconds.items()}
        found.append(
            {
                "preset": name,
                "program": program,
                "milliseconds": medians,
                "ratio": ratio(seconds["after"], seconds["before"]),
                "shares": time_shares(versions["after"]),
            }
        )
    return found


_COLUMNS = (
    Column("preset", "preset"),
    Column("program", "program"),
    Column("before, ms", "milliseconds.before", "{:.1f}"),
    Column("after, ms", "milliseconds.after", "{:.1f}"),
    Column("after / before", "ratio.of_medians", "{:.3f}"),
    *shares("shares", KINDS),
)


def main(
    presets: tuple[str, ...] = tuple(PRESETS), rounds: int = 40, results_dir: Path = RESULTS
) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      presets: names of presets.
      rounds: timed calls of each version.
      results_dir: directory of results.
    """
    keep_freed_memory()
    found = [row for name in presets for row in measure(name, rounds)]
    config = {"rounds": rounds, "dtype": "float32"}
    publish("step_profile", config, found, tabulate(_COLUMNS, found), results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
