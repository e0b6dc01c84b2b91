"""Stages with frozen slopes: training the deep model, and healing the compact one."""

from pathlib import Path
from typing import Any, TypeVar

import optax

from train.config.calibrated import HealedConfig
from train.engine.loop import Stage
from train.engine.optimizers import freeze_slopes, make_adamw, warmup_cosine
from train.engine.stages import History, last_state
from train.runs.protocol import Protocol
from train.tasks.distillation import with_teacher

Healed = TypeVar("Healed", bound=HealedConfig)


class Healing(Protocol[Healed]):
    """A protocol whose first stage trains the deep model, and whose last heals the compact one."""

    @property
    def deep_steps(self) -> int:
        """Steps of the first stage; 0 if the deep model is that of another run."""
        return self.task.steps if self.task.config.init.deep is None else 0

    @property
    def heal_peak(self) -> float | None:
        """Peak learning rate of healing; None for that of training."""
        return self.settings.heal_learning_rate

    def deep_optimizer(self) -> optax.GradientTransformation:
        """Returns the optimizer of the first stage."""
        return self.with_frozen_slopes(self.deep_steps, start=0)

    def heal_optimizer(self, start: int) -> optax.GradientTransformation:
        """Returns the optimizer of the last stage, with a new schedule from step `start`."""
        steps = self.task.steps_in(self.settings.heal_epochs)
        return self.with_frozen_slopes(steps, start=start, peak=self.heal_peak)

    def with_frozen_slopes(
        self, steps: int, *, start: int, peak: float | None = None
    ) -> optax.GradientTransformation:
        """Returns AdamW with frozen slopes."""
        optimizer = self.task.config.optimizer
        rate = warmup_cosine(optimizer, steps, start=start, peak=peak)
        return freeze_slopes(make_adamw(optimizer, rate))

    def heal_stage(self, directory: Path, history: History) -> Stage:
        """Returns the last stage, with the deep model as teacher if configured."""
        deep = self.deep(directory) if self.settings.deep_teacher else None
        return self.healing(self.optimizer(history), history[-1]["step"], deep)

    def healing(self, tx: optax.GradientTransformation, start: int, deep: Any) -> Stage:
        """Returns a stage of --heal-epochs from step `start`; `deep` is the teacher, or None."""
        task = self.task
        loss, source = task.loss, task.source
        if deep is not None:
            loss, source = with_teacher(
                task.classifier, source, task.classifier, deep, task.config.distillation
            )
        end = start + task.steps_in(self.settings.heal_epochs)
        return Stage(loss, tx, source, end)

    def deep(self, directory: Path) -> Any:
        """Returns the variables of the deep model, after the first stage."""
        like = self.initial_state()
        return (last_state(directory, 0, like) or like).variables
