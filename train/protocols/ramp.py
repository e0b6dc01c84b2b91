"""ramp: a strength that grows over the run, so that one run gives models of many sizes."""

import dataclasses
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.config.protocol import RampConfig
from train.engine.loop import Stage, TrainState
from train.engine.optimizers import make_optimizer
from train.engine.stages import History
from train.runs.kept_models import delete_after, list_models, save_model
from train.runs.protocol import Protocol, RunResult


class Ramp(Protocol[RampConfig]):
    """One stage like that of penalty, with a strength that grows geometrically to --strength.

    The slope of a site reaches 1 once the strength exceeds its value to the task. Whenever a new
    set of sites is at exactly 1, the compact model of that moment is saved.
    """

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer with a growing penalty."""
        config, steps = self.task.config, self.task.steps
        end, start = config.penalty.strength, round(config.penalty.start * steps)
        length = max(1, steps - start)
        low = end * self.settings.ramp_start

        def strength(count: Any) -> Any:
            return low * (end / low) ** ((count - start).clip(0) / length) if low else 0.0 * count

        return make_optimizer(config.optimizer, config.penalty, steps, strength=strength)

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the stage, which saves a compact model whenever a slope reaches 1."""

        def watch(step: int, state: TrainState) -> bool:
            self._save_if_new(directory, step, state.variables)
            return False

        return dataclasses.replace(super().stage(directory, history), watch=watch)

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the result with the kept models."""
        result = super().finish(directory, history, variables)
        return dataclasses.replace(result, kept_models=tuple(list_models(directory)))

    def _save_if_new(self, directory: Path, step: int, variables: Any) -> None:
        delete_after(directory, step)
        linear = [site.path for site in lcjax.find_sites(variables) if site.gap == 0]
        if not linear or any(entry["collapsed"] == linear for entry in list_models(directory)):
            return
        compact, _ = lcjax.collapse(variables, linear)
        facts = {
            "collapsed": linear,
            "parameters": lcjax.count_parameters(compact),
            "validation": self.task.scores(compact),
        }
        save_model(directory, step, compact, facts)
