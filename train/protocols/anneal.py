"""anneal: the slopes of chosen sites follow a schedule to exactly 1."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.engine.optimizers import holding_slopes, make_adamw, warmup_cosine
from train.engine.stages import History
from train.protocols.base import Ending, Protocol
from train.protocols.site_plan import candidates, planned, says_how_many
from train.runtime.devices import is_first
from train.tasks.base import Task


class Anneal(Protocol):
    """One stage: slopes go from 0 to 1 over --anneal-fraction of the steps, after --start.

    The sites are those that --last and --where leave; with --count or --target-params, and a
    finished model to begin with, those of them that cost it least, by `lcjax.plan`; with --count
    and a new model, the last of them.
    """

    def __init__(self, task: Task):
        """Makes the protocol, and its plan where one is asked for."""
        super().__init__(task)
        if is_first() and self._plan is not None:
            print(self._plan, flush=True)

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns AdamW, with `lcjax.anneal_slopes` after it; slopes not chosen stay."""
        config, steps = self.task.config, self.task.steps
        begin = round(config.penalty.start * steps)
        length = max(1, round(config.protocol.anneal_fraction * steps))
        schedule = optax.linear_schedule(0.0, 1.0, length, transition_begin=begin)
        inner = make_adamw(config.optimizer, warmup_cosine(config.optimizer, steps))
        return optax.chain(
            holding_slopes(inner), lcjax.anneal_slopes(schedule, sites=list(self._sites))
        )

    def end(self, directory: Path, history: History, variables: Any) -> Ending:
        """Returns the compact model, and the plan it followed, if any."""
        ending = super().end(directory, history, variables)
        if self._plan is None:
            return ending
        return dataclasses.replace(ending, account=f"{self._plan}\n\n{ending.account}")

    @property
    def _sites(self) -> tuple[str, ...]:
        if self._plan is not None:
            return self._plan.sites
        sites = tuple(candidates(self.task, self.task.variables))
        return sites[-(self.task.config.protocol.count or len(sites)) :]

    @cached_property
    def _plan(self) -> lcjax.Plan | None:
        """The plan; the deep model it is made for is always there, so a resumed run has it too."""
        task = self.task
        if task.config.protocol.deep is None or not says_how_many(task):
            return None
        return planned(task, task.variables)
