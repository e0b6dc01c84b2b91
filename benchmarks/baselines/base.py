"""Baselines: other compressions of the MLPs that a run collapsed, healed as that run heals.

A baseline keeps shapes that the model's module can run, so that everything that reads a run can
read it: the parameters that its lower width or rank saves are in the summary as "removed". FLOPs
and times in that summary are those of the shapes; "materialized" has those of the smaller ones.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import lcjax
from benchmarks.baselines import trees
from benchmarks.harness.finished_runs import fit_heal_config
from benchmarks.harness.timing import interleaved
from lcjax.calibration.data import Weighting
from lcjax.structure.chains.chain import Chain
from lcjax.structure.chains.find import find_chains
from train.config.base import RunConfig
from train.config.protocol import FitHealConfig
from train.engine.loop import TrainState
from train.engine.run_directory import SUMMARY, read_json
from train.engine.stages import History, Stage
from train.protocols.healing import Healing
from train.runs import command
from train.runs.flags import configure_warnings
from train.runs.latency import compile_forward, flops
from train.runs.protocol import RunResult
from train.runtime.memory import keep_freed_memory
from train.tasks.base import Task
from train.validation import ConfigError

# Baselines that keep their MLPs deep: module and title, by the name in their runs.
BASELINES = {
    "pruned": ("benchmarks.baselines.magnitude", "hidden units pruned"),
    "low-rank": ("benchmarks.baselines.svd", "low rank"),
}
DROP = "benchmarks.baselines.drop"
_FEWEST_ROUNDS, _MOST_ROUNDS = 30, 300  # of timing
_TIMING_SECONDS = 4.0  # between those
Constraint = Callable[[optax.GradientTransformation], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A deep model after a baseline's compression.

    Attributes:
      variables: initial ones of healing.
      constrain: wraps an optimizer so that its updates keep the compression.
      removed: parameters among the variables that need not be stored.
      report: of the compression, as text.
      small: returns a function and its variables that compute the same in the real, smaller shapes,
        from healed variables, to be timed; None where `variables` have these shapes.
      times: of this form and of others, interleaved with the deep model, as a share of its time;
        empty where a method does not depend on time.
    """

    variables: Any
    constrain: Constraint
    removed: int
    report: str
    small: Callable[[Any], tuple[Callable[[Any, Any], Any], Any]] | None = None
    times: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a compressed model is compared with.

    Attributes:
      sites: that the run collapsed.
      parameters: the most that the compressed model may have.
    """

    sites: tuple[str, ...]
    parameters: int


# Compresses the first model of a task.
Compress = Callable[[Task, Target], Compressed]
# Compresses a deep model's variables, given the sites that the run collapsed.
WeightsOnly = Callable[[Any, Sequence[str]], Compressed]


def from_weights(compress: WeightsOnly) -> Compress:
    """Returns a compression that needs no data, for the sites of the target."""
    return lambda task, target: compress(task.variables, target.sites)


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """Command line of a baseline."""

    source: tyro.conf.Positional[Path]
    """A finished run, whose deep model is compressed and healed as the run heals."""
    parameters: int | None = None
    """Most parameters of the compressed model; by default those of the run's compact model."""
    heal_epochs: float | None = None
    """Epochs of healing; by default those of the run."""
    heal_learning_rate: float | None = None
    """Peak learning rate of healing; by default that of the run."""
    deep_teacher: bool | None = None
    """Heal with the deep model as teacher; by default as the run."""
    calibration_images: int | None = None
    """Training examples that are calibrated with; by default as many as the run."""
    calibration_weighting: Weighting | None = None
    """How much tokens of these examples count; by default as for the run."""
    weight_decay: float | None = None
    """Weight decay of healing; by default that of the run."""
    warmup: float | None = None
    """Fraction of the steps of healing over which the rate rises; by default that of the run."""
    runs_dir: Path = Path("runs/benchmark")
    """Directory of the run."""
    name: str | None = None
    """Name of the run."""
    seed: int = 0
    """Seed of the order of examples and of dropout."""
    resume: bool = False
    """Continue the unfinished run of this name."""


def main(compress: Compress, description: str | None) -> None:
    """Runs a baseline's command line."""
    config = tyro.cli(BaselineConfig, description=description)
    configure_warnings()
    keep_freed_memory()
    heal(config, compress)


def heal(command_line: BaselineConfig, compress: Compress) -> None:
    """Heals a finished run's deep model, compressed by a baseline, in as many steps as the run.

    Raises:
      SystemExit: in one line, when it cannot be done.
    """
    try:
        config = fit_heal_config(command_line.source)
        target = target_of(command_line.source, command_line.parameters)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    given = vars(command_line)
    config = dataclasses.replace(
        config,
        run=RunConfig(**{name: given[name] for name in ("runs_dir", "name", "seed", "resume")}),
        protocol=_replaced(config.protocol, given),
        optimizer=_replaced(config.optimizer, given),
    )
    command.execute(config, {"fit-heal": healing(compress, target)})


def target_of(source: Path, parameters: int | None = None) -> Target:
    """Returns the target that a finished run sets, with another number of parameters if given.

    Raises:
      FileNotFoundError: for a run that is not finished.
    """
    summary = read_json(source / SUMMARY)
    own = summary["compact"]["parameters"] - summary.get("removed", 0)
    return Target(tuple(summary["collapsed"]), own if parameters is None else parameters)


def _replaced(section: Any, given: dict[str, Any]) -> Any:
    """Returns a section of a configuration with the fields that are given."""
    names = {field.name for field in dataclasses.fields(section)}
    chosen = {n: value for n, value in given.items() if n in names and value is not None}
    return dataclasses.replace(section, **chosen)


def healing(compress: Compress, target: Target) -> type[Healing]:
    """Returns the protocol that heals a task's first model, compressed by a baseline."""

    class HealedBaseline(Healing[FitHealConfig]):
        """One stage of --heal-epochs."""

        def __init__(self, task: Task):
            super().__init__(task)
            self._compressed = compress(task, target)

        def initial_state(self) -> TrainState:
            variables = jax.tree.map(jnp.copy, self._compressed.variables)
            return TrainState.create(variables, self.optimizer([]))

        def optimizer(self, history: History) -> optax.GradientTransformation:
            return self._compressed.constrain(self.heal_optimizer(0))

        def stage(self, directory: Path, history: History) -> Stage:
            task = self.task
            deep = task.variables if self.settings.deep_teacher else None
            return self.healing(self.optimizer(history), 0, deep)

        def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
            done = self._compressed
            deep, extra = self.task.variables, {}
            if done.removed:
                extra["removed"] = done.removed
            if done.small is not None:
                forms = {
                    "deep": (self.task.classifier.logits, deep),
                    "compact": done.small(variables),
                }
                extra["materialized"] = measured(self.task, forms)
            return RunResult(deep, variables, target.sites, done.report, extra=extra)

    return HealedBaseline


def budgets(deep: Any, sites: Sequence[str]) -> list[tuple[Chain, int]]:
    """Returns the MLPs with collapsed sites, each with its number of parameters after the fuse.

    Raises:
      ConfigError: for an MLP that is gated, has norms, or is stacked by `nn.scan`.
    """
    chains = [
        chain
        for chain in find_chains(deep["params"])
        if {chain.site(i) for i in chain.acts} & set(sites)
    ]
    for chain in chains:
        stacked = any(dense["kernel"].ndim > 2 for dense in chain.denses.values())
        if chain.gate is not None or chain.norms or stacked:
            kind = "gated MLP" if chain.gate is not None else "stacked MLP, or one with norms"
            raise ConfigError(
                f"{chain.path}: got a {kind}, expected a plain chain of Dense layers."
            )
    compact, _ = lcjax.abstract_collapse(deep, sites)
    params = compact["params"]
    return [(chain, lcjax.count_parameters(trees.at_path(params, chain.path))) for chain in chains]


def widths(chain: Chain) -> list[int]:
    """Returns the widths of an MLP, from inputs to outputs."""
    kernels = [dense["kernel"] for dense in chain.denses.values()]
    return [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]


def measured(
    task: Task, forms: Mapping[str, tuple[Callable[[Any, Any], Any], Any]]
) -> dict[str, dict[str, Any]]:
    """Returns FLOPs per input and interleaved milliseconds of a batch, as summaries have them.

    Args:
      task: with an example of the inputs.
      forms: functions of variables and inputs, each with its variables, by name.
    """
    inputs, batch = zeros(task), task.config.data.batch_size
    compiled = {n: compile_forward(apply, tree, inputs) for n, (apply, tree) in forms.items()}
    calls = {n: partial(compiled[n], forms[n][1], inputs) for n in forms}
    timed = interleaved(calls, rounds=_rounds(calls), warmup=0)
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in timed.items()}
    key = f"flops_per_{task.data.each.split()[1]}"
    return {
        name: {"latency_ms": {str(batch): ms[name]}, key: flops(compiled[name]) / batch}
        for name in forms
    }


def zeros(task: Task) -> jax.Array:
    """Returns a batch of the inputs of a task, all of them 0."""
    example = task.data.example
    return jax.device_put(np.zeros((task.config.data.batch_size, *example.shape), example.dtype))


def _rounds(calls: Mapping[str, Callable[[], Any]]) -> int:
    """Returns how many rounds of calls take some seconds; each call runs twice."""
    for _ in range(2):  # the first with cold caches
        start = time.perf_counter()
        for call in calls.values():
            jax.block_until_ready(call())
    rounds = int(_TIMING_SECONDS / (time.perf_counter() - start))
    return min(max(rounds, _FEWEST_ROUNDS), _MOST_ROUNDS)
