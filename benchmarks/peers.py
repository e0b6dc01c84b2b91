"""Peers: other ways to make the MLPs smaller that a run collapsed, healed just as that run heals.

A peer is kept in shapes that the model's module can run, so that everything that reads a run can
read it: what it does without, units or rank, is in the summary as "removed", a number of
parameters. FLOPs and times in that summary are those of the shapes.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import lcjax
from lcjax.structure.chains import Chain, find_chains, join
from lcjax.tree.paths import in_params, leaf_path
from train.config.base import RunConfig
from train.config.from_json import restored
from train.distill import student
from train.engine.loop import TrainState
from train.engine.run_directory import CONFIG, SUMMARY, read_json
from train.engine.stages import History, Stage
from train.protocols import Ending
from train.protocols.healing import Healing
from train.runs import command
from train.runs.comparison import count_parameters
from train.runtime.memory import keep_freed_memory
from train.tasks.base import Task
from train.validation import ConfigError

# Modules of the peers that keep their MLPs deep, and what they are called.
PEERS = {"pruned": "hidden units pruned", "low_rank": "low rank"}
Constraint = Callable[[optax.GradientTransformation], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Peer:
    """What a peer makes of a deep model.

    Attributes:
      variables: with which healing begins.
      within: makes of an optimizer one under which what was removed stays so.
      removed: how many of the variables' parameters there would be no need to keep.
      account: what was done, in words.
    """

    variables: Any
    within: Constraint
    removed: int
    account: str


# Makes a peer of a deep model's variables and the sites that are collapsed.
Make = Callable[[Any, Sequence[str]], Peer]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a peer's command line takes."""

    source: tyro.conf.Positional[Path]
    """A finished run with a deep model from which sites were collapsed."""
    runs_dir: Path = Path("runs/benchmark")
    """Where the run is kept."""
    name: str | None = None
    """Of the run."""
    seed: int = 0
    """Of the order of examples and of dropout."""
    resume: bool = False
    """Continue the unfinished run of this name."""


def main(make: Make, about: str | None) -> None:
    """Runs a peer's command line."""
    asked = tyro.cli(Asked, description=about)
    command.quieten()
    keep_freed_memory()
    heal(asked, make)


def heal(asked: Asked, make: Make) -> None:
    """Heals a peer of a finished run, with its data, from its deep model, in as many steps.

    Raises:
      SystemExit: in one line, when it cannot be done.
    """
    try:
        config, make_task = student(asked.source)
        sites = read_json(asked.source / SUMMARY)["collapsed"]
        ran = restored(config.protocol, read_json(asked.source / CONFIG)["protocol"], "protocol")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    protocol = dataclasses.replace(
        ran, protocol="fit-heal", deep=asked.source, teacher=None, collapsed_from=None
    )
    run = RunConfig(**{k: v for k, v in vars(asked).items() if k != "source"})
    config = dataclasses.replace(config, protocol=protocol, run=run)
    command.execute(config, make_task, {"fit-heal": healing(make, sites)})


def healing(make: Make, sites: Sequence[str]) -> type[Healing]:
    """Returns the protocol that heals a peer of the deep model that a task begins with."""

    class HealedPeer(Healing):
        """One stage of --heal-epochs."""

        def __init__(self, task: Task):
            super().__init__(task)
            self._peer = make(task.variables, sites)

        def first(self) -> TrainState:
            begun = jax.tree.map(jnp.copy, self._peer.variables)
            return TrainState.create(begun, self.optimizer([]))

        def optimizer(self, history: History) -> optax.GradientTransformation:
            return self._peer.within(self.heal_optimizer(0))

        def stage(self, directory: Path, history: History) -> Stage:
            task = self.task
            deep = task.variables if task.config.protocol.deep_teacher else None
            return self.healing(self.optimizer(history), 0, deep)

        def end(self, directory: Path, history: History, variables: Any) -> Ending:
            peer = self._peer
            facts = {"removed": peer.removed}
            return Ending(self.task.variables, variables, tuple(sites), peer.account, facts=facts)

    return HealedPeer


def budgets(deep: Any, sites: Sequence[str]) -> list[tuple[Chain, int]]:
    """Returns the MLPs that have collapsed sites, each with its parameters once they are fused.

    Raises:
      ConfigError: where an MLP is gated, normalises, or is stacked by `nn.scan`.
    """
    chains = [
        chain
        for chain in find_chains(deep["params"])
        if {chain.site(i) for i in chain.acts} & set(sites)
    ]
    for chain in chains:
        stacked = any(dense["kernel"].ndim > 2 for dense in chain.denses.values())
        if chain.gate is not None or chain.norms or stacked:
            kind = "gated" if chain.gate is not None else "one of several layers, or normalises"
            raise ConfigError(f"{chain.path}: is {kind}; wanted a plain chain of Dense layers.")
    compact, _ = lcjax.abstract_collapse(deep, sites)
    return [(chain, count_parameters(compact, (join(chain.path, ""),))) for chain in chains]


def widths(chain: Chain) -> list[int]:
    """Returns the widths of an MLP, from its inputs to its outputs."""
    kernels = [dense["kernel"] for dense in chain.denses.values()]
    return [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]


def keeping(inner: optax.GradientTransformation, kept: Any) -> optax.GradientTransformation:
    """Returns an optimizer whose updates are 0 where `kept` is False."""
    return optax.chain(inner, optax.stateless(lambda updates, _: where_kept(updates, kept)))


def where_kept(params: Any, kept: Any) -> Any:
    """Returns params with zeros where `kept`, a tree of arrays to broadcast, is False."""
    return jax.tree.map(
        lambda leaf, keep: jnp.where(keep, leaf, 0).astype(leaf.dtype), params, kept
    )


def count_removed(params: Any, kept: Any) -> int:
    """Returns how many entries of params are not kept."""
    gone = jax.tree.map(
        lambda leaf, keep: leaf.size - np.broadcast_to(keep, leaf.shape).sum(), params, kept
    )
    return int(sum(jax.tree.leaves(gone)))


def masks(params: Any, found: Mapping[str, np.ndarray]) -> Any:
    """Returns a tree like params of what is found at their paths, and True elsewhere."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: found.get(in_params(leaf_path(keys)), np.array(True)), params
    )
