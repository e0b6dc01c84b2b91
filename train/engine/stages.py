"""Runs of several stages, resumable at any step and between stages, bit for bit.

Stage 0 is stored in the run's directory, stage k in `stages/k`. A stage first writes its first
checkpoint, then `stages/k/start`: its first variables, by `lcjax.save`. It exists once both are
written. An interrupted run continues in the last existing stage; an unfinished start is redone.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

import lcjax
from train.config.base import Config
from train.engine.checkpoints import Snapshots
from train.engine.loop import Metrics, Stage, TrainState, make_dispatch, state_shardings, train
from train.engine.metrics_writer import metrics_writer
from train.runtime.devices import barrier, is_main_process
from train.runtime.sharding import current_mesh

# Facts about the stages after the first, one entry each; JSON.
History = Sequence[dict[str, Any]]
_STAGES, _START = "stages", "start"


class StageStart(NamedTuple):
    """The beginning of a stage.

    Attributes:
      state: the first state; its step is the last one of the previous stage.
      facts: entry of the history; JSON.
    """

    state: TrainState
    facts: dict[str, Any]


class StageSchedule(Protocol):
    """The stages of a run; both methods depend on their arguments only."""

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the stage after this history."""
        ...

    def next_stage(self, directory: Path, history: History, state: TrainState) -> StageStart | None:
        """Returns the start of the stage after this last state; None at the end of the run."""
        ...


def run_stages(
    directory: Path,
    first: TrainState,
    schedule: StageSchedule,
    *,
    key: jax.Array,
    validate: Callable[[Any], tuple[Metrics, float]],
    config: Config,
) -> tuple[TrainState, History]:
    """Trains all remaining stages of a run.

    Args:
      directory: of the run.
      first: state before the first step; it is donated.
      schedule: the stages.
      key: random key of the steps.
      validate: as for `train.engine.loop.train`.
      config: of the run.

    Returns:
      The last state, and the history of all stages.
    """
    history = _history(directory)
    while True:
        stage = schedule.stage(directory, history)
        state = _run(directory, _first_state(directory, history, stage, first), stage, len(history),
                     key=key, validate=validate, config=config)  # fmt: skip
        start = schedule.next_stage(directory, history, state)
        if start is None:
            return state, history
        history = [*history, _begin(stage_directory(directory, len(history) + 1), start)]


def stage_directory(directory: Path, number: int) -> Path:
    """Returns the directory of a stage."""
    return directory / _STAGES / str(number) if number else directory


def first_variables(directory: Path, number: int) -> Any:
    """Returns the first variables of a stage after stage 0."""
    return lcjax.restore(stage_directory(directory, number) / _START)


def last_state(directory: Path, number: int, like: TrainState) -> TrainState | None:
    """Returns the last saved state of a stage; None if it took no step."""
    with Snapshots(stage_directory(directory, number)) as snapshots:
        return snapshots.restore(like=like)


def _history(directory: Path) -> list[dict[str, Any]]:
    """Returns the history of an interrupted run; deletes an unfinished start of a stage."""
    history = []
    while (stage_directory(directory, len(history) + 1) / _START).exists():
        start = stage_directory(directory, len(history) + 1) / _START
        history.append(lcjax.read_metadata(start))
    begun = stage_directory(directory, len(history) + 1)
    barrier(f"stages of {directory} are read")
    if begun.exists() and is_main_process():
        shutil.rmtree(begun)
    barrier(f"stages of {directory} are cleared")
    return history


def _begin(here: Path, start: StageStart) -> dict[str, Any]:
    step = int(start.state.step)
    with Snapshots(here) as snapshots:
        snapshots.save(step, start.state)
    lcjax.save(here / _START, start.state.variables, metadata=start.facts)
    return lcjax.read_metadata(here / _START)


def _first_state(directory: Path, history: History, stage: Stage, first: TrainState) -> TrainState:
    """Returns a state of the stage's structure; in stage 0 that before the first step."""
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
    run, mesh = config.run, current_mesh()
    shardings = None if mesh is None else state_shardings(first, stage.tx, mesh)
    first = first if mesh is None else jax.device_put(first, shardings)
    with Snapshots(stage_directory(directory, number), keep=run.keep) as snapshots:
        state = snapshots.restore(like=first) or first
        with metrics_writer(directory, start_step=int(state.step)) as recorder:
            return train(
                state,
                make_dispatch(
                    stage.loss,
                    stage.tx,
                    stage.source,
                    key,
                    accumulate=config.optimizer.accumulate,
                    state_sharding=shardings,
                ),
                stage,
                validate=validate,
                recorder=recorder,
                snapshots=snapshots,
                log_every=run.log_every,
                checkpoint_every=run.checkpoint_every,
            )
