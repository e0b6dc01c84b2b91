"""Runs of several stages, resumable at any step and between stages, bit for bit.

Stage 0 is kept in the run's own directory, stage k in `stages/k`. A stage begins with its first
snapshot, and after that with `stages/k/start`: its first variables as `lcjax.save` keeps them. The
stage is there once that is. A run that broke off goes on in the last stage that is there; what
was begun of another is made again.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import optax

import lcjax
from train.config.base import Config
from train.data.batches import Source
from train.engine.checkpoints import Snapshots
from train.engine.loop import Loss, Metrics, TrainState, Watch, make_dispatch, train
from train.engine.metrics_writer import recorder_of
from train.runtime.devices import is_first, wait_for_all
from train.runtime.sharding import current_mesh, place

# What is known of the stages after the first, one each; JSON.
History = Sequence[dict[str, Any]]
_STAGES, _START = "stages", "start"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
      loss: as `train.engine.loop` takes it.
      tx: the optimizer.
      source: of the batches.
      end: number of the run's step with which it ends at the latest.
      watch: may end it before; see `train.engine.loop.train`.
    """

    loss: Loss
    tx: optax.GradientTransformation
    source: Source
    end: int
    watch: Watch | None = None


class Start(NamedTuple):
    """How a stage begins.

    Attributes:
      state: the first one; its step is the last of the stage before.
      facts: what the stages have to know of it; JSON.
    """

    state: TrainState
    facts: dict[str, Any]


class Staged(Protocol):
    """What the stages are; both methods depend on their arguments alone."""

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the stage that begins after this history."""
        ...

    def follow(self, directory: Path, history: History, state: TrainState) -> Start | None:
        """Returns how the stage begins that comes after this one's last state; None at the end."""
        ...


def run_stages(
    directory: Path,
    first: TrainState,
    staged: Staged,
    *,
    key: jax.Array,
    validate: Callable[[Any], tuple[Metrics, float]],
    config: Config,
) -> tuple[TrainState, History]:
    """Trains stage after stage, from wherever the run is, and returns the last state.

    Args:
      directory: of the run.
      first: state before the first step; it is donated.
      staged: the stages.
      key: of all chance in a step.
      validate: as for `train.engine.loop.train`.
      config: of the run.

    Returns:
      the state, and the history of all stages.
    """
    history = _history(directory)
    while True:
        stage = staged.stage(directory, history)
        state = _run(directory, _first_state(directory, history, stage, first), stage, len(history),
                     key=key, validate=validate, config=config)  # fmt: skip
        start = staged.follow(directory, history, state)
        if start is None:
            return state, history
        history = [*history, _begin(stage_directory(directory, len(history) + 1), start)]


def stage_directory(directory: Path, number: int) -> Path:
    """Returns where a stage of a run is kept."""
    return directory / _STAGES / str(number) if number else directory


def first_variables(directory: Path, number: int) -> Any:
    """Returns the variables with which a stage after the first began."""
    return lcjax.restore(stage_directory(directory, number) / _START)


def last_state(directory: Path, number: int, like: TrainState) -> TrainState | None:
    """Returns the last state that a stage saved; None where it took no step."""
    with Snapshots(stage_directory(directory, number)) as snapshots:
        return snapshots.restore(like=like)


def _history(directory: Path) -> list[dict[str, Any]]:
    """Returns the history of a run that broke off; deletes the stage that was only begun."""
    history = []
    while (stage_directory(directory, len(history) + 1) / _START).exists():
        start = stage_directory(directory, len(history) + 1) / _START
        history.append(lcjax.read_metadata(start))
    begun = stage_directory(directory, len(history) + 1)
    wait_for_all(f"stages of {directory} are read")
    if begun.exists() and is_first():
        shutil.rmtree(begun)
    wait_for_all(f"stages of {directory} are cleared")
    return history


def _begin(here: Path, start: Start) -> dict[str, Any]:
    step = int(start.state.step)
    with Snapshots(here) as snapshots:
        snapshots.save(step, start.state)
    lcjax.save(here / _START, start.state.variables, metadata=start.facts)
    return lcjax.read_metadata(here / _START)


def _first_state(directory: Path, history: History, stage: Stage, first: TrainState) -> TrainState:
    """Returns a state of the stage's structure; in stage 0 the one before the first step."""
    if not history:
        return first
    return TrainState.create(first_variables(directory, len(history)), stage.tx)


def _run(
    directory: Path,
    first: TrainState,
    stage: Stage,
    number: int,
    *,
    key: jax.Array,
    validate: Callable[[Any], tuple[Metrics, float]],
    config: Config,
) -> TrainState:
    run, first = config.run, place(first, first.variables)
    shardings = current_mesh() and jax.tree.map(lambda leaf: leaf.sharding, first)
    with Snapshots(stage_directory(directory, number), keep=run.keep) as snapshots:
        state = snapshots.restore(like=first) or first
        with recorder_of(directory, start_step=int(state.step)) as recorder:
            return train(
                state,
                make_dispatch(
                    stage.loss,
                    stage.tx,
                    stage.source,
                    key,
                    accumulate=config.optimizer.accumulate,
                    shardings=shardings,
                ),
                stage.source,
                end=stage.end,
                validate=validate,
                recorder=recorder,
                snapshots=snapshots,
                log_every=run.log_every,
                checkpoint_every=run.checkpoint_every,
                watch=stage.watch,
            )
