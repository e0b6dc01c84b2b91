"""Baselines: other compressions of the MLPs that a run collapsed, healed as that run heals.

A baseline keeps shapes that the model's module can run, so that everything that reads a run can
read it: the parameters that its lower width or rank saves are in the summary as "removed". FLOPs
and times in that summary are those of the shapes.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import lcjax
from benchmarks.harness.finished_runs import fit_heal_config
from lcjax.structure.chains import Chain, find_chains
from lcjax.tree.paths import in_params, leaf_path
from train.config.base import RunConfig
from train.config.protocol import FitHealConfig
from train.engine.loop import TrainState
from train.engine.run_directory import SUMMARY, read_json
from train.engine.stages import History, Stage
from train.protocols.healing import Healing
from train.runs import command
from train.runs.flags import configure_warnings
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
Constraint = Callable[[optax.GradientTransformation], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A deep model after a baseline's compression.

    Attributes:
      variables: initial ones of healing.
      constrain: wraps an optimizer so that its updates keep the compression.
      removed: parameters among the variables that need not be stored.
      report: of the compression, as text.
    """

    variables: Any
    constrain: Constraint
    removed: int
    report: str


# Compresses a deep model's variables, given the sites that the run collapsed.
Compress = Callable[[Any, Sequence[str]], Compressed]


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """Command line of a baseline."""

    source: tyro.conf.Positional[Path]
    """A finished run that collapsed sites of a deep model."""
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
        sites = read_json(command_line.source / SUMMARY)["collapsed"]
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    run = RunConfig(**{k: v for k, v in vars(command_line).items() if k != "source"})
    config = dataclasses.replace(config, run=run)
    command.execute(config, {"fit-heal": healing(compress, sites)})


def healing(compress: Compress, sites: Sequence[str]) -> type[Healing]:
    """Returns the protocol that heals a task's first model, compressed by a baseline."""

    class HealedBaseline(Healing[FitHealConfig]):
        """One stage of --heal-epochs."""

        def __init__(self, task: Task):
            super().__init__(task)
            self._compressed = compress(task.variables, sites)

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
            extra = {"removed": done.removed}
            deep = self.task.variables
            return RunResult(deep, variables, tuple(sites), done.report, extra=extra)

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
    return [(chain, lcjax.count_parameters(_subtree(params, chain.path))) for chain in chains]


def _subtree(params: Any, path: str) -> Any:
    return reduce(lambda node, name: node[name], path.split("/") if path else [], params)


def widths(chain: Chain) -> list[int]:
    """Returns the widths of an MLP, from inputs to outputs."""
    kernels = [dense["kernel"] for dense in chain.denses.values()]
    return [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]


def masked_updates(inner: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """Returns an optimizer whose updates are 0 where the mask is False."""
    return optax.chain(inner, optax.stateless(lambda updates, _: apply_mask(updates, mask)))


def apply_mask(params: Any, mask: Any) -> Any:
    """Returns params with zeros where the mask, a tree of arrays to broadcast, is False."""
    return jax.tree.map(
        lambda leaf, keep: jnp.where(keep, leaf, 0).astype(leaf.dtype), params, mask
    )


def count_masked(params: Any, mask: Any) -> int:
    """Returns the number of entries of params where the mask is False."""
    masked = jax.tree.map(
        lambda leaf, keep: leaf.size - np.broadcast_to(keep, leaf.shape).sum(), params, mask
    )
    return int(sum(jax.tree.leaves(masked)))


def mask_tree(params: Any, masks: Mapping[str, np.ndarray]) -> Any:
    """Returns a tree like params with the masks at their paths, and True elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: masks.get(in_params(leaf_path(keys)), np.array(True)), params
    )
