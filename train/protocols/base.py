"""What every protocol is: stages, and what is left of them in the end."""

import abc
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lcjax
from train.config.base import AnyConfig
from train.engine.loop import TrainState
from train.engine.stages import History, Stage, Start
from train.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a run comes to.

    Attributes:
      deep: variables of the deep model.
      compact: variables of the compact one.
      collapsed: paths of the sites that are gone, in forward order.
      account: of the collapse, in words; a text of several lines.
      front: what is known of compact models on the way, one each: step, parameters, validation
        scores, the sites that are gone, and the checkpoint's path inside the run.
      facts: for the summary; JSON.
    """

    deep: Any
    compact: Any
    collapsed: tuple[str, ...]
    account: str
    front: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Protocol(abc.ABC):
    """How a model is trained and collapsed; by itself one stage, and a collapse by threshold."""

    def __init__(self, task: Task):
        """Makes the protocol for a task."""
        self.task = task

    @staticmethod
    def adapted(config: AnyConfig) -> AnyConfig:
        """Returns the configuration that the protocol makes of a user's."""
        return config

    def first(self) -> TrainState:
        """Returns the state before the first step."""
        return TrainState.create(jax.tree.map(jnp.copy, self.task.variables), self.optimizer([]))

    @abc.abstractmethod
    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer of the stage that begins after this history."""

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the stage that begins after this history."""
        task = self.task
        return Stage(task.loss, self.optimizer(history), task.source, task.steps)

    def follow(self, directory: Path, history: History, state: TrainState) -> Start | None:
        """Returns how the next stage begins; None at the end."""
        return None

    def end(self, directory: Path, history: History, variables: Any) -> Ending:
        """Returns what the run comes to, from the last stage's variables."""
        penalty = self.task.config.penalty
        run = self.task.config.protocol.collapsed_from
        if run is not None and penalty.slope_learning_rate == 0:
            account = (
                f"the student has the compact topology of {run}, so there is nothing to collapse. "
                f"Where it is worse than {run}'s own compact model, use that one, or train the "
                "student longer (--epochs)."
            )
            return Ending(variables, variables, (), account)
        if not lcjax.find_sites(variables):
            return Ending(variables, variables, (), "the model has no site to collapse.")
        compact, report = lcjax.collapse(variables, threshold=penalty.threshold)
        account = str(report)
        if not report.collapsed and penalty.slope_learning_rate == 0:
            account = (
                "slopes were not trained (--slope-learning-rate 0), so nothing was collapsed and "
                "the compact model is the one that was trained."
            )
        elif not report.collapsed:
            account = (
                f"no slope came within {penalty.threshold:g} of 1, so nothing was collapsed and "
                f"the compact model is the deep one: raise --strength ({penalty.strength:g} now) "
                "or train longer."
            )
        return Ending(variables, compact, report.collapsed, account)


def collapse_by_fit(
    task: Task, variables: Any, sites: tuple[str, ...]
) -> tuple[Any, lcjax.CollapseReport]:
    """Returns the tree with these sites collapsed as --fit says, and the report.

    Where all of them are linear already, fusing is exact, and no fit is better.
    """
    fit, found = task.config.protocol.fit, lcjax.find_sites(variables)
    if fit == "exact" or all(site.gap == 0 for site in found if site.path in sites):
        return lcjax.collapse(variables, sites, threshold=math.inf)
    apply, batches, mask = task.classifier.logits, task.calibration, task.classifier.mask
    if task.config.protocol.sequential:
        return lcjax.collapse_sequential(apply, variables, batches, sites, fit=fit, mask=mask)
    stats = lcjax.calibrate(apply, variables, batches, sites, fit=fit, mask=mask)
    return lcjax.collapse(variables, fit=stats)
