"""The peer that needs no fit: the MLPs that a run collapsed are removed, and the rest trained on.

`python -m benchmarks.removed RUN`: from the deep model that RUN collapsed, with its data and its
steps. A removed MLP is a linear layer of zeros that never moves, behind whose residual connection
nothing is left.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

import lcjax
from lcjax.paths import in_params, leaf_path
from train import command
from train.config import Config, RunConfig
from train.distill import student
from train.finished import DEEP
from train.loop import TrainState
from train.protocols import Ending, Protocol
from train.protocols.natural import Natural
from train.run_dir import SUMMARY, read_json
from train.stages import History


def removing(run: Path) -> type[Protocol]:
    """Returns the protocol that trains a run's deep model without the MLPs it collapsed."""
    deep, sites = lcjax.restore(run / DEEP), read_json(run / SUMMARY)["collapsed"]
    compact, report = lcjax.collapse(deep, sites, threshold=float("inf"))

    def gone(path: Any) -> bool:
        return in_params(leaf_path(path)) in report.new

    def zeroed(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.zeros_like(leaf) if gone(path) else leaf, tree
        )

    class Removed(Natural):
        """One stage of plain training."""

        def first(self) -> TrainState:
            return TrainState.create(zeroed(compact), self.optimizer([]))

        def optimizer(self, history: History) -> optax.GradientTransformation:
            hold = optax.stateless(lambda updates, _: zeroed({"params": updates})["params"])
            return optax.chain(super().optimizer(history), hold)

        def end(self, directory: Path, history: History, variables: Any) -> Ending:
            flat = jax.tree_util.tree_leaves_with_path(variables)
            removed = sum(leaf.size for path, leaf in flat if gone(path))
            told = f"{len(sites)} MLPs removed, with them {removed:,} weights of the linear layers"
            return Ending(variables, variables, tuple(sites), told, facts={"removed": removed})

    return Removed


def main(
    source: tyro.conf.Positional[Path],
    runs_dir: Path = Path("runs/benchmark"),
    name: str | None = None,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains the network without the MLPs that a finished run collapsed.

    Args:
      source: a finished run with a deep model from which sites were collapsed.
      runs_dir: where the run is kept.
      name: of the run.
      seed: of the order of examples and of dropout.
      resume: continue the unfinished run of this name.
    """
    command.quieten()
    try:
        config, make_task = student(source)
    except ValueError as error:
        sys.exit(f"error: {error}")
    own = RunConfig(name=name, runs_dir=runs_dir, seed=seed, resume=resume)
    command.execute(_plain(config, own), make_task, {"natural": removing(source)})


def _plain(config: Config, run: RunConfig) -> Config:
    protocol = dataclasses.replace(config.protocol, teacher=None, collapsed_from=None)
    return dataclasses.replace(config, protocol=protocol, run=run)


if __name__ == "__main__":
    tyro.cli(main)
