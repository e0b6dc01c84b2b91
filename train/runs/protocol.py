"""The interface of protocols: stages of training, and the result of a run."""

import abc
import dataclasses
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

import lcjax
from train.config.base import AnyConfig
from train.config.calibrated import ProtocolConfig
from train.engine.loop import Stage, TrainState
from train.engine.stages import History, StageStart
from train.tasks.base import Task

Settings = TypeVar("Settings", bound=ProtocolConfig)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
      deep: variables of the deep model.
      compact: variables of the compact one.
      collapsed: paths of the collapsed sites, in forward order.
      report_text: report of the collapse; several lines.
      kept_models: entries of compact models saved during training: step, parameters, validation
        scores, collapsed sites, and path of the checkpoint inside the run.
      extra: more entries for the summary; JSON.
    """

    deep: Any
    compact: Any
    collapsed: tuple[str, ...]
    report_text: str
    kept_models: tuple[dict[str, Any], ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


class Protocol(abc.ABC, Generic[Settings]):
    """How a model is trained and collapsed; by default one stage, then sites within --max-gap."""

    def __init__(self, task: Task):
        """Creates the protocol for a task, whose configuration has this protocol's settings."""
        self.task = task
        self.settings: Settings = cast(Any, task.config.protocol)

    @staticmethod
    def override_config(config: AnyConfig) -> AnyConfig:
        """Returns the configuration with the values that the protocol requires."""
        return config

    def initial_state(self) -> TrainState:
        """Returns the state before the first step."""
        return TrainState.create(jax.tree.map(jnp.copy, self.task.variables), self.optimizer([]))

    @abc.abstractmethod
    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer of the stage after this history."""

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the stage after this history."""
        task = self.task
        return Stage(task.loss, self.optimizer(history), task.source, task.steps)

    def next_stage(self, directory: Path, history: History, state: TrainState) -> StageStart | None:
        """Returns the start of the next stage; None at the end of the run."""
        return None

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the result of the run, from the last variables."""
        penalty = self.task.config.penalty
        run = self.task.config.init.collapsed_from
        if run is not None and penalty.slope_learning_rate == 0:
            text = (
                f"the student has the compact topology of {run}, so there is nothing to collapse. "
                f"If it is worse than {run}'s compact model, use that one, or train the student "
                "longer (--epochs)."
            )
            return RunResult(variables, variables, (), text)
        if not lcjax.find_sites(variables):
            return RunResult(variables, variables, (), "the model has no site to collapse.")
        compact, report = lcjax.collapse(variables, fit=lcjax.Exact(max_gap=penalty.max_gap))
        text, changed = str(report), report.collapsed or report.units
        if not changed and penalty.slope_learning_rate == 0:
            text = (
                "slopes were not trained (--slope-learning-rate 0), so nothing was collapsed and "
                "the compact model is the trained one."
            )
        elif not changed:
            text = (
                f"no slope came within {penalty.max_gap:g} of 1, so nothing was collapsed and "
                f"the compact model is the deep one: raise --strength ({penalty.strength:g} now) "
                "or train longer."
            )
        kept = {site: len(units) for site, units in report.units.items()}
        extra = {"kept_units": kept} if kept else {}
        return RunResult(variables, compact, report.collapsed, text, extra=extra)
