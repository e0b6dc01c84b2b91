"""ramp: a strength that grows over the run; one run gives the front of quality against size."""

import dataclasses
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.engine.loop import TrainState
from train.engine.optimizers import make_optimizer
from train.engine.stages import History, Stage
from train.protocols.base import Ending, Protocol
from train.runs.comparison import count_parameters
from train.runs.kept_models import forget_after, keep, kept


class Ramp(Protocol):
    """One stage as natural's, the strength growing geometrically to --strength.

    Sites arrive at 1 as their price is reached. Whenever other sites are at exactly 1 than ever
    before, the compact model of that moment is kept.
    """

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the collapsing optimizer with a growing strength."""
        config, steps = self.task.config, self.task.steps
        end, start = config.penalty.strength, round(config.penalty.start * steps)
        length = max(1, steps - start)
        low = end * config.protocol.ramp_start

        def strength(count: Any) -> Any:
            return low * (end / low) ** ((count - start).clip(0) / length) if low else 0.0 * count

        return make_optimizer(config.optimizer, config.penalty, steps, strength=strength)

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the one stage, which keeps a compact model at every arrival."""

        def watch(step: int, state: TrainState) -> bool:
            self._keep(directory, step, state.variables)
            return False

        return dataclasses.replace(super().stage(directory, history), watch=watch)

    def end(self, directory: Path, history: History, variables: Any) -> Ending:
        """Returns the ending with the front."""
        ending = super().end(directory, history, variables)
        return dataclasses.replace(ending, front=tuple(kept(directory)))

    def _keep(self, directory: Path, step: int, variables: Any) -> None:
        forget_after(directory, step)
        linear = [site.path for site in lcjax.find_sites(variables) if site.gap == 0]
        if not linear or any(entry["collapsed"] == linear for entry in kept(directory)):
            return
        compact, _ = lcjax.collapse(variables, linear)
        facts = {
            "collapsed": linear,
            "parameters": count_parameters(compact),
            "validation": self.task.scores(compact),
        }
        keep(directory, step, compact, facts)
