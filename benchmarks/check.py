"""A short set of ratios of times against stored ones; fails where one is beyond their spread.

`make bench-check`, or `python -m benchmarks.check`: in minutes, whether a change made lcjax slower.
Both times of a ratio are measured interleaved in one process, so that the speed of the machine and
its other load cancel; no absolute time is compared. `--store` measures the set several times and
writes it to `results/check.json`; do it on the machine that compares, at the commit before the
change. A ratio fails if it is above the highest of the stored runs three times in a row. It is not
part of `.ci/run`, whose machines are shared.
"""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax
import tyro

import lcjax
from benchmarks.cost.collapsible import trace_seconds
from benchmarks.cost.penalty_overhead import PlainMLP, make_steps
from benchmarks.cost.penalty_overhead import networks as overhead_networks
from benchmarks.cost.step_profile import PRESETS, unoptimized, with_gelu
from benchmarks.harness.publish import RESULTS, Column, machine, publish, tabulate
from benchmarks.harness.timing import interleaved, ratio
from benchmarks.networks import NETWORKS
from train.runs.latency import compile_forward
from train.runtime.memory import keep_freed_memory

_TRIES = 3
_SAME = ("processor", "cores", "device", "jax")  # of the machine, for ratios to be comparable
# Returns a ratio from the number of rounds.
Measure = Callable[[int], float]


def compact_over_deep(network: str, rounds: int) -> float:
    """Returns the time of a compact forward pass over that of the deep one."""
    built = NETWORKS[network]()
    deep = built.init(jax.random.key(0))
    compact, _ = lcjax.collapse(deep, built.sites(deep), lcjax.Exact(max_gap=math.inf))
    inputs = built.module_inputs(built.batch_size)
    calls = {
        name: partial(compile_forward(built.module.apply, tree, inputs), tree, inputs)
        for name, tree in (("compact", compact), ("deep", deep))
    }
    return _ratio(calls, rounds)


def slopes_over_plain(rounds: int) -> float:
    """Returns the time of a training step with slopes and penalty over that of a plain one."""
    build, x, count = overhead_networks()["fashion-mlp, batch 256"]
    tx = lcjax.with_linearity_penalty(optax.adamw(1e-4), strength=1e-3, slope_learning_rate=1e-3)
    calls = {
        "slopes": make_steps(build(lcjax.CollapsibleMLP), tx, x, count),
        "plain": make_steps(build(PlainMLP), optax.adamw(1e-4), x, count),
    }
    return _ratio(calls, rounds)


def optimized_over_plain(rounds: int) -> float:
    """Returns the time of a Mixer's training step over that without `train`'s optimizations."""
    network = PRESETS["fashion-mixer"]()
    with unoptimized():
        before = with_gelu(network, partial(nn.gelu, approximate=False)).step()
    calls = {"after": network.step().call, "before": before.call}
    return _ratio(calls, max(rounds // 4, 3))  # of a fifth of a second each


def finding_over_tracing(rounds: int) -> float:
    """Returns the time to trace a function and find its sites over that to trace it."""
    seconds = trace_seconds(layers=12, rounds=max(rounds // 8, 3))
    return seconds["both"] / seconds["trace"]


RATIOS: Mapping[str, Measure] = {
    "compact / deep forward pass, Fashion-MNIST MLP": partial(
        compact_over_deep, "Fashion-MNIST MLP"
    ),
    "compact / deep forward pass, CIFAR-10 ViT": partial(compact_over_deep, "CIFAR-10 ViT"),
    "step with slopes / plain step, Fashion-MNIST MLP": slopes_over_plain,
    "step / step without optimizations, Fashion-MNIST Mixer": optimized_over_plain,
    "finding sites / tracing, 12 layers": finding_over_tracing,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A ratio and the stored ones.

    Attributes:
      name: of the ratio.
      measured: the lowest of up to three measurements, of which the last was not above highest.
      lowest: of the stored ones.
      median: of the stored ones.
      highest: of the stored ones.
    """

    name: str
    measured: float
    lowest: float
    median: float
    highest: float

    @property
    def outcome(self) -> str:
        """Whether it is slower or faster than every stored one."""
        if self.measured > self.highest:
            return "slower"
        return "faster" if self.measured < self.lowest else "as before"


def judge(name: str, stored: Sequence[float], measure: Callable[[], float]) -> Verdict:
    """Returns the verdict on a ratio, measured again where it is above all stored ones."""
    measured = measure()
    for _ in range(_TRIES - 1):
        if measured <= max(stored):
            break
        measured = min(measured, measure())
    return Verdict(name, measured, min(stored), statistics.median(stored), max(stored))


def main(
    store: bool = False, rounds: int = 60, repeats: int = 5, results_dir: Path = RESULTS
) -> None:
    """Compares ratios with the stored ones, or stores them.

    Args:
      store: measure and write instead.
      rounds: timed calls of each form.
      repeats: measurements of every ratio that are stored, one set after the other.
      results_dir: directory of `check.json`.
    """
    keep_freed_memory()
    if store:
        found = {name: [] for name in RATIOS}
        for number in range(repeats):
            for name, measure in RATIOS.items():
                found[name].append(measure(rounds))
                print(f"{number + 1}/{repeats}  {name}: {found[name][-1]:.3f}", flush=True)
        table = tabulate(_STORED, found.items())
        publish("check", {"rounds": rounds}, found, table, results_dir=results_dir)
        return
    verdicts = [
        judge(name, values, partial(RATIOS[name], rounds))
        for name, values in _stored(results_dir / "check.json").items()
    ]
    print(tabulate(_COLUMNS, verdicts).text())
    if slower := [each.name for each in verdicts if each.outcome == "slower"]:
        sys.exit(f"error: slower than all stored ratios: {'; '.join(slower)}.")


def _stored(path: Path) -> dict[str, list[float]]:
    """Returns the stored ratios; ends the process where they are not of these, on this machine."""
    how = "store them with python -m benchmarks.check --store, at the commit to compare with"
    if not path.exists():
        sys.exit(f"error: {path}: got no file of stored ratios; {how}.")
    record, here = json.loads(path.read_text(encoding="utf-8")), machine()
    for key in _SAME:
        if record["machine"][key] != here[key]:
            sys.exit(
                f"error: {path}: got ratios of a machine with {key} {record['machine'][key]}, "
                f"expected {here[key]}; {how}."
            )
    if set(record["results"]) != set(RATIOS):
        sys.exit(f"error: {path}: got other ratios than {', '.join(RATIOS)}; {how}.")
    return record["results"]


def _ratio(calls: Mapping[str, Callable[[], Any]], rounds: int) -> float:
    """Returns the ratio of the medians of two calls."""
    first, second = interleaved(calls, rounds=rounds).values()
    return ratio(first, second)["of_medians"]


_COLUMNS = (
    Column("ratio of times", lambda each: each.name),
    Column("measured", lambda each: each.measured, "{:.3f}"),
    Column("stored", lambda each: each.median, "{:.3f}"),
    Column("spread", lambda each: f"{each.lowest:.3f} to {each.highest:.3f}"),
    Column("", lambda each: each.outcome),
)
_STORED = (
    Column("ratio of times", lambda row: row[0]),
    Column("median", lambda row: statistics.median(row[1]), "{:.3f}"),
    Column("spread", lambda row: f"{min(row[1]):.3f} to {max(row[1]):.3f}"),
)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
