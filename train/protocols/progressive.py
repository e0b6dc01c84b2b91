"""progressive: the paper's order, sites in stages from the last backwards."""

from pathlib import Path
from typing import Any

import optax

import lcjax
from lcjax._table import render
from lcjax.tree.paths import natural_sort_key
from train.engine.loop import TrainState
from train.engine.optimizers import make_adamw, warmup_cosine
from train.engine.stages import History, Stage, Start, first_variables
from train.protocols.base import Ending, collapse_by_fit
from train.protocols.healing import Healing
from train.protocols.site_plan import candidates
from train.runs.comparison import count_parameters
from train.tasks.metric import Metric

Facts = dict[str, Any]
_BEND, _HEAL = "bend", "heal"
# Every stage trains a finished model on: at its full rate it would lose more than a site costs.
_GENTLE = 0.2


class Progressive(Healing):
    """The deep model (or --from), then stages of --sites-per-stage sites, then healing.

    A stage penalises its sites until their gaps are within --threshold, or for --stage-epochs, and
    collapses them by --fit. Stages end when no site is left, or when the model is worse than the
    deep one by more than --max-drop on the validation split: the model from before that stage is
    healed.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, algorithm 1.
    """

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer of a stage."""
        if not history:
            return self.deep_optimizer()
        facts = history[-1]
        if facts["kind"] == _HEAL:
            return self.heal_optimizer(facts["step"])
        config, steps = self.task.config, self._stage_steps
        rate = warmup_cosine(config.optimizer, steps, start=facts["step"], peak=self.heal_peak)
        return lcjax.with_linearity_penalty(
            make_adamw(config.optimizer, rate),
            strength=config.penalty.strength,
            penalty=config.penalty.penalty,
            slope_learning_rate=config.penalty.slope_learning_rate,
            sites=facts["sites"],
            steps=steps,
        )

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns a stage."""
        task, tx = self.task, self.optimizer(history)
        if not history:
            return Stage(task.loss, tx, task.source, self.deep_steps)
        facts = history[-1]
        if facts["kind"] == _HEAL:
            return self.heal_stage(directory, history)
        threshold, sites = task.config.penalty.threshold, set(facts["sites"])

        def arrived(step: int, state: TrainState) -> bool:
            found = lcjax.find_sites(state.variables)
            gaps = [site.gap for site in found if site.path in sites]
            return all(gap is not None and gap <= threshold for gap in gaps)

        end = facts["step"] + self._stage_steps
        return Stage(task.loss, tx, task.source, end, watch=arrived)

    def follow(self, directory: Path, history: History, state: TrainState) -> Start | None:
        """Returns the next stage's start, with the sites of this one collapsed."""
        if not history:
            return self._after_deep(state)
        if history[-1]["kind"] == _HEAL:
            return None
        return self._after_bending(directory, history, state)

    def end(self, directory: Path, history: History, variables: Any) -> Ending:
        """Returns the last model within --max-drop beside the deep one."""
        deep, last = self.deep(directory), history[-1]
        compact = variables if last["kind"] == _HEAL else deep
        front = tuple(
            {key: facts[key] for key in ("step", "collapsed", "parameters", "validation")}
            | {"path": f"stages/{number}/start"}
            for number, facts in enumerate(history, 1)
            if facts["collapsed"]
        )
        facts = {"progressive": {"deep_validation": history[0]["validation"]}}
        if "too_far" in last:
            facts["progressive"]["too_far"] = last["too_far"]
        account = _table(self.task.metric, history, self.task.config.protocol.max_drop)
        return Ending(deep, compact, tuple(last["collapsed"]), account, front, facts)

    @property
    def heal_peak(self) -> float:
        """Largest rate of the stages after the deep model."""
        given, training = self.task.config.protocol.heal_learning_rate, self.task.config.optimizer
        return training.learning_rate * _GENTLE if given is None else given

    @property
    def _stage_steps(self) -> int:
        return max(1, self.task.steps_in(self.task.config.protocol.stage_epochs))

    def _after_deep(self, state: TrainState) -> Start:
        facts = self._bend(state.step, state.variables, [], candidates(self.task, state.variables))
        fresh: Any = self.optimizer([facts]).init(state.params)
        opt_state = fresh._replace(inner=state.opt_state)
        return Start(_with(state, state.variables, opt_state), facts)

    def _after_bending(self, directory: Path, history: History, state: TrainState) -> Start | None:
        facts = history[-1]
        compact, report = collapse_by_fit(self.task, state.variables, facts["sites"])
        collapsed = sorted([*facts["collapsed"], *facts["sites"]], key=natural_sort_key)
        got = self._facts(state.step, compact, collapsed)
        if _drop(self.task.metric, history, got) > self.task.config.protocol.max_drop:
            if not facts["collapsed"]:
                return None
            before = first_variables(directory, len(history))
            kept = self._facts(state.step, before, facts["collapsed"])
            kept |= {"kind": _HEAL, "too_far": got}
            return Start(_with(state, before, state.opt_state.inner), kept)
        carried = lcjax.carry_opt_state(
            self.optimizer(history), state.opt_state, state.params, compact["params"], report
        )
        left = facts["left"]
        if not left:
            return Start(_with(state, compact, carried.inner), got | {"kind": _HEAL})
        got = self._bend(state.step, compact, collapsed, left)
        opt_state = lcjax.update_site_selection(self.optimizer([got]), carried, compact["params"])
        return Start(_with(state, compact, opt_state), got)

    def _bend(self, step: Any, variables: Any, collapsed: list[str], left: list[str]) -> Facts:
        """Returns the facts of a stage that bends the last ones of those left."""
        count = self.task.config.protocol.sites_per_stage
        facts = self._facts(step, variables, collapsed)
        return facts | {"kind": _BEND, "sites": left[-count:], "left": left[:-count]}

    def _facts(self, step: Any, variables: Any, collapsed: list[str]) -> Facts:
        return {
            "step": int(step),
            "collapsed": collapsed,
            "parameters": count_parameters(variables),
            "validation": self.task.scores(variables),
        }


def _with(state: TrainState, variables: Any, opt_state: Any) -> TrainState:
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    return TrainState(state.step, variables["params"], stats, opt_state)


def _drop(metric: Metric, history: History, facts: Facts) -> float:
    """Returns by how much a model is worse than the deep one on the validation split."""
    deep, scores = (each["validation"] for each in (history[0], facts))
    return metric.merit(deep) - metric.merit(scores)


def _table(metric: Metric, history: History, max_drop: float) -> str:
    """Returns the stages as a table, and why they ended."""
    rows = [
        (
            f"{facts['step']:,}",
            f"{len(facts['collapsed'])}",
            f"{facts['parameters']:,}",
            metric.show(facts["validation"]),
            ", ".join(facts.get("sites", [])) or "none: healing",
        )
        for facts in history
    ]
    lines = [render(("at step", "collapsed", "parameters", "validation", "bent next"), rows)]
    last = history[-1]
    if "too_far" in last:
        lost = metric.show_drop(_drop(metric, history, last["too_far"]))
        sites = ", ".join(path for path in last["too_far"]["collapsed"])
        lines.append(
            f"with {sites} collapsed, validation {metric.name} was {lost} the deep "
            f"model's, more than --max-drop {max_drop:g} allows, {metric.show_drop(max_drop)} it: "
            f"the model before that was healed."
        )
    if last["kind"] == _BEND:
        lines.append(
            f"the first stage lost more than --max-drop {max_drop:g}, so nothing was collapsed and "
            "the compact model is the deep one: raise --max-drop, --stage-epochs or --strength."
        )
    return "\n".join(lines)
