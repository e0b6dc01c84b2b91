"""fit-heal: plan by measurement, collapse by a fit, train further."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import optax

import lcjax
from lcjax.planning.plan_file import fit_to_json
from train.config.protocol import FitHealConfig
from train.engine.loop import Stage, TrainState
from train.engine.stages import History, StageStart
from train.protocols.fitting import collapse_by_fit, make_plan
from train.protocols.healing import Healing
from train.protocols.site_fits import Fits, collapse_by_site, plan_mix, read_plan, uniform_units
from train.runs.protocol import RunResult
from train.runtime.devices import is_main_process
from train.tasks.base import Task

PLAN = "plan.json"  # in the directory of a run with --fit mix


class _Collapsed(NamedTuple):
    """What the first stage leads to.

    Attributes:
      variables: of the compact model.
      report: None if nothing was collapsed.
      text: for the summary.
      facts: for the run's history; JSON.
    """

    variables: Any
    report: lcjax.CollapseReport | None
    text: str
    facts: dict[str, Any]


class FitHeal(Healing[FitHealConfig]):
    """Two stages: the deep model without penalty (or --from), and healing after the collapse.

    In between `lcjax.plan` selects sites by their cost on the validation split, within --count,
    --target-params or --max-drop; or every site has a fit of its own, by --fit units, --fit mix or
    --plan. The optimizer's moments are carried over.
    """

    def __init__(self, task: Task):
        """Creates the protocol; reads --plan."""
        super().__init__(task)
        self._fits: Fits | None = None
        if self.settings.plan is not None:
            self._fits = read_plan(self.settings.plan, task).fits
        elif self.settings.fit == "units":
            self._fits = uniform_units(task, self.settings, task.variables)

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer of a stage."""
        return self.heal_optimizer(history[-1]["step"]) if history else self.deep_optimizer()

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns a stage."""
        if history:
            return self.heal_stage(directory, history)
        task = self.task
        return Stage(task.loss, self.optimizer(history), task.source, self.deep_steps)

    def next_stage(self, directory: Path, history: History, state: TrainState) -> StageStart | None:
        """Returns the compact model after the first stage; None after the second."""
        if history:
            return None
        task, deep = self.task, state.variables
        if self._fits is not None:
            collapsed = self._by_site(deep, self._fits)
        elif self.settings.fit == "mix":
            collapsed = self._by_mix(directory, deep)
        else:
            collapsed = self._by_plan(deep)
        compact, report, text, facts = collapsed
        opt_state = state.opt_state
        if report is not None:
            opt_state = lcjax.carry_opt_state(
                self.optimizer(history), opt_state, state.params, compact["params"], report
            )
        stats = {name: tree for name, tree in compact.items() if name != "params"}
        return StageStart(
            TrainState(state.step, compact["params"], stats, opt_state),
            {
                "step": int(state.step),
                "account": text,
                "parameters": lcjax.count_parameters(compact),
                "validation": task.scores(compact),
                "deep_validation": task.scores(deep),
                **facts,
            },
        )

    def _by_plan(self, deep: Any) -> _Collapsed:
        """Collapses the sites that a plan selects by their cost, all by the same fit."""
        task = self.task
        budget = self.settings.size_budget() or lcjax.MaxDrop(self.settings.max_drop)
        plan = make_plan(task, self.settings, deep, budget)
        text = f"{plan}\nthe metric is {task.metric.score_name}"
        _print(text)
        facts = {"collapsed": list(plan.sites), "plan": json.loads(plan.to_json())}
        if not plan.sites:
            return _Collapsed(deep, None, text, facts)
        compact, report = collapse_by_fit(task, self.settings, deep, plan.sites)
        return _Collapsed(compact, report, f"{text}\n\n{report}", facts)

    def _by_mix(self, directory: Path, deep: Any) -> _Collapsed:
        """Replaces every site by the fit that a plan chooses; saves the plan in the directory."""
        plan = plan_mix(self.task, self.settings, deep)
        _print(str(plan))
        if is_main_process():
            plan.save(directory / PLAN)
        if not plan.fits:
            return _Collapsed(deep, None, str(plan), {"collapsed": []})
        found = self._by_site(deep, plan.fits)
        return found._replace(text=f"{plan}\n\n{found.text}")

    def _by_site(self, deep: Any, fits: Fits) -> _Collapsed:
        """Replaces every site by a fit of its own."""
        compact, report = collapse_by_site(self.task, deep, fits)
        _print(str(report))
        facts = {
            "collapsed": list(report.collapsed),
            "fits": {site: fit_to_json(fit) for site, fit in fits.items()},
        }
        return _Collapsed(compact, report, str(report), facts)

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the deep model and the healed one."""
        (facts,) = history
        facts = dict(facts)
        text, collapsed = facts.pop("account"), tuple(facts.pop("collapsed"))
        extra = {"fits": facts.pop("fits", {}), "fit_heal": facts}
        return RunResult(self.deep(directory), variables, collapsed, text, extra=extra)


def _print(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
