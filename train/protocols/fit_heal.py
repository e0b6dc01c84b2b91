"""fit-heal: plan by measurement, collapse by a fit, train further."""

import json
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.config.protocol import FitHealConfig
from train.engine.loop import Stage, TrainState
from train.engine.stages import History, StageStart
from train.protocols.fitting import collapse_by_fit, make_plan
from train.protocols.healing import Healing
from train.runs.protocol import RunResult
from train.runtime.devices import is_main_process


class FitHeal(Healing[FitHealConfig]):
    """Two stages: the deep model without penalty (or --from), and healing after the collapse.

    In between `lcjax.plan` selects sites by their cost on the validation split, within --count,
    --target-params or --max-drop. The optimizer's moments are carried over.
    """

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
        budget = self.settings.size_budget() or lcjax.MaxDrop(self.settings.max_drop)
        plan = make_plan(task, self.settings, deep, budget)
        text = f"{plan}\nthe metric is {task.metric.score_name}"
        if is_main_process():
            print(text, flush=True)
        compact, report = deep, None
        opt_state = state.opt_state
        if plan.sites:
            compact, report = collapse_by_fit(task, self.settings, deep, plan.sites)
            text += f"\n\n{report}"
            opt_state = lcjax.carry_opt_state(
                self.optimizer(history), opt_state, state.params, compact["params"], report
            )
        stats = {name: tree for name, tree in compact.items() if name != "params"}
        return StageStart(
            TrainState(state.step, compact["params"], stats, opt_state),
            {
                "step": int(state.step),
                "collapsed": list(plan.sites),
                "account": text,
                "parameters": lcjax.count_parameters(compact),
                "validation": task.scores(compact),
                "deep_validation": task.scores(deep),
                "plan": json.loads(plan.to_json()),
            },
        )

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the deep model and the healed one."""
        (facts,) = history
        facts = dict(facts)
        text, collapsed = facts.pop("account"), tuple(facts.pop("collapsed"))
        return RunResult(
            self.deep(directory), variables, collapsed, text, extra={"fit_heal": facts}
        )
