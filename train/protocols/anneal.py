"""anneal: the slopes of chosen sites follow a schedule to exactly 1."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.config.protocol import AnnealConfig
from train.engine.optimizers import freeze_slopes, make_adamw, warmup_cosine
from train.engine.stages import History
from train.protocols.fitting import candidates, make_plan
from train.runs.protocol import Protocol, RunResult
from train.runtime.devices import is_main_process
from train.tasks.base import Task


class Anneal(Protocol[AnnealConfig]):
    """One stage: slopes go from 0 to 1 over --anneal-fraction of the steps, after --start.

    The sites are those that --last and --where select. With --count or --target-params and a
    finished model (--from), those among them that cost it least, by `lcjax.plan`; with --count and
    a new model, the last of them.
    """

    def __init__(self, task: Task):
        """Creates the protocol and prints its plan, if it has one."""
        super().__init__(task)
        if is_main_process() and self._plan is not None:
            print(self._plan, flush=True)

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns AdamW followed by `lcjax.anneal_slopes`; other slopes are frozen."""
        config, steps = self.task.config, self.task.steps
        begin = round(config.penalty.start * steps)
        length = max(1, round(self.settings.anneal_fraction * steps))
        schedule = optax.linear_schedule(0.0, 1.0, length, transition_begin=begin)
        inner = make_adamw(config.optimizer, warmup_cosine(config.optimizer, steps))
        return optax.chain(
            freeze_slopes(inner), lcjax.anneal_slopes(schedule, sites=list(self._sites))
        )

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the result with the plan, if there is one."""
        result = super().finish(directory, history, variables)
        if self._plan is None:
            return result
        return dataclasses.replace(result, report_text=f"{self._plan}\n\n{result.report_text}")

    @property
    def _sites(self) -> tuple[str, ...]:
        if self._plan is not None:
            return self._plan.sites
        sites = tuple(candidates(self.task, self.task.variables))
        return sites[-(self.settings.count or len(sites)) :]

    @cached_property
    def _plan(self) -> lcjax.Plan | None:
        """The plan. A resumed run makes the same one, from the same finished model."""
        task = self.task
        budget = None if task.config.init.deep is None else self.settings.size_budget()
        if budget is None:
            return None
        return make_plan(task, self.settings, task.variables, budget)
