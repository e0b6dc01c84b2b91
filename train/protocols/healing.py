"""Stages of training with slopes held: the deep model before surgery, the compact one after."""

from pathlib import Path
from typing import Any

import optax

from train.engine.optimizers import holding_slopes, make_adamw, warmup_cosine
from train.engine.stages import History, Stage, last_state
from train.protocols.base import Protocol
from train.tasks.base import teaching
from train.tasks.distillation import with_teacher


class Healing(Protocol):
    """A protocol whose first stage makes the deep model, and whose last heals the compact one."""

    @property
    def deep_steps(self) -> int:
        """Steps of the first stage; none where the deep model comes from another run."""
        return self.task.steps if self.task.config.protocol.deep is None else 0

    @property
    def heal_peak(self) -> float | None:
        """Largest learning rate of healing; None for that of training."""
        return self.task.config.protocol.heal_learning_rate

    def deep_optimizer(self) -> optax.GradientTransformation:
        """Returns the optimizer of the first stage."""
        return self.held(self.deep_steps, start=0)

    def heal_optimizer(self, start: int) -> optax.GradientTransformation:
        """Returns the optimizer of the last stage; its rate rises and falls anew from `start`."""
        steps = self.task.steps_in(self.task.config.protocol.heal_epochs)
        return self.held(steps, start=start, peak=self.heal_peak)

    def held(
        self, steps: int, *, start: int, peak: float | None = None
    ) -> optax.GradientTransformation:
        """Returns AdamW under which slopes stay as they are."""
        optimizer = self.task.config.optimizer
        rate = warmup_cosine(optimizer, steps, start=start, peak=peak)
        return holding_slopes(make_adamw(optimizer, rate))

    def heal_stage(self, directory: Path, history: History) -> Stage:
        """Returns the last stage, with the deep model as teacher if asked for."""
        deep = self.deep(directory) if self.task.config.protocol.deep_teacher else None
        return self.healing(self.optimizer(history), history[-1]["step"], deep)

    def healing(self, tx: optax.GradientTransformation, start: int, deep: Any) -> Stage:
        """Returns a stage of --heal-epochs from step `start`; `deep` teaches, unless it is None."""
        task = self.task
        loss, source = task.loss, task.source
        if deep is not None:
            loss, source = with_teacher(
                task.classifier, source, task.classifier, deep, teaching(task.config)
            )
        end = start + task.steps_in(task.config.protocol.heal_epochs)
        return Stage(loss, tx, source, end)

    def deep(self, directory: Path) -> Any:
        """Returns the variables of the deep model, once the first stage is over."""
        like = self.first()
        return (last_state(directory, 0, like) or like).variables
