"""Where the time of a training step goes, and what three savings are worth: before and after.

`python -m benchmarks.step_costs`: the small Mixer, ViT, encoder (MiniLM-L6) and decoder of the
presets. Before: dense layers on (batch, tokens, width), `nn.gelu`'s exact form and
`jax.nn.dot_product_attention`. After: what the training loop and `lcjax.models` do: dense layers
(not attention's own) on flat tokens in training, `exact_gelu`, and `attend`. Compact inference has
the later half of the MLPs fused. Both are interleaved in one run; a trace of the later one shows
where the time goes.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flax.linen as nn
import jax
import tyro

from benchmarks.interleave import interleaved, ratio
from benchmarks.preset_steps import NAMES, Preset, Program, preset
from benchmarks.record import RESULTS, Table, publish
from benchmarks.trace import KINDS, shares
from lcjax.models import attention
from train.engine import loop
from train.runtime.memory import keep_freed_memory


@contextmanager
def before() -> Iterator[None]:
    """Inside, programs are traced without what was saved in attention and in dense layers."""

    def attend(*given: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return jax.nn.dot_product_attention(*given, mask=mask)

    with patch.object(attention, "attend", attend), patch.object(loop, "flat_tokens", nullcontext):
        yield


def programs(which: Preset) -> dict[str, dict[str, Program]]:
    """Returns the step and the forward pass, each as it was before and as it is after."""
    old = which.with_gelu(partial(nn.gelu, approximate=False))
    with before():
        found = {
            "training step": {"before": old.step()},
            "compact inference": {"before": old.forward()},
        }
    found["training step"]["after"] = which.step()
    found["compact inference"]["after"] = which.forward()
    return found


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns, for a preset's two programs, milliseconds of both forms and the shares."""
    found = []
    for program, forms in programs(preset(name)).items():
        calls = {form: each.call for form, each in forms.items()}
        seconds = interleaved(calls, rounds=rounds)
        medians = {form: 1e3 * statistics.median(times) for form, times in seconds.items()}
        found.append(
            {
                "preset": name,
                "program": program,
                "milliseconds": medians,
                "ratio": ratio(seconds["after"], seconds["before"]),
                "shares": shares(forms["after"]),
            }
        )
    return found


def main(presets: tuple[str, ...] = NAMES, rounds: int = 40, results_dir: Path = RESULTS) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      presets: which of them.
      rounds: timed calls of each form.
      results_dir: where results are written.
    """
    keep_freed_memory()
    found = [row for name in presets for row in measure(name, rounds)]
    headers = ("preset", "program", "before, ms", "after, ms", "after / before", *KINDS)
    table = Table(headers, [_cells(each) for each in found])
    config = {"rounds": rounds, "dtype": "float32"}
    publish("step_costs", config, found, table, results_dir=results_dir)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["preset"],
        found["program"],
        *(f"{found['milliseconds'][form]:.1f}" for form in ("before", "after")),
        f"{found['ratio']['of_medians']:.3f}",
        *(f"{100 * found['shares'][kind]:.0f} %" for kind in KINDS),
    )


if __name__ == "__main__":
    tyro.cli(main)
