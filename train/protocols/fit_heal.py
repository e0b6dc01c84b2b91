"""fit-heal: plan by measurement, collapse by fit, train on."""

import json
from pathlib import Path
from typing import Any

import optax

import lcjax
from train.engine.loop import TrainState
from train.engine.stages import History, Stage, Start
from train.protocols.base import Ending, collapse_by_fit
from train.protocols.healing import Healing
from train.protocols.site_plan import planned
from train.runs.comparison import count_parameters
from train.runtime.devices import is_first


class FitHeal(Healing):
    """Two stages: the deep model with no penalty (or --from), and healing after the collapse.

    In between `lcjax.plan` chooses sites by what they cost on the validation split, within --count,
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

    def follow(self, directory: Path, history: History, state: TrainState) -> Start | None:
        """Returns the compact model after the first stage; None after the second."""
        if history:
            return None
        task, deep = self.task, state.variables
        plan = planned(task, deep)
        account = f"{plan}\nthe metric is {task.metric.merit_is}"
        if is_first():
            print(account, flush=True)
        compact, report = deep, None
        opt_state = state.opt_state
        if plan.sites:
            compact, report = collapse_by_fit(task, deep, plan.sites)
            account += f"\n\n{report}"
            opt_state = lcjax.carry_opt_state(
                self.optimizer(history), opt_state, state.params, compact["params"], report
            )
        stats = {name: tree for name, tree in compact.items() if name != "params"}
        return Start(
            TrainState(state.step, compact["params"], stats, opt_state),
            {
                "step": int(state.step),
                "collapsed": list(plan.sites),
                "account": account,
                "parameters": count_parameters(compact),
                "validation": task.scores(compact),
                "deep_validation": task.scores(deep),
                "plan": json.loads(plan.to_json()),
            },
        )

    def end(self, directory: Path, history: History, variables: Any) -> Ending:
        """Returns the healed model beside the deep one."""
        (facts,) = history
        facts = dict(facts)
        account, collapsed = facts.pop("account"), tuple(facts.pop("collapsed"))
        return Ending(
            self.deep(directory), variables, collapsed, account, facts={"fit_heal": facts}
        )
