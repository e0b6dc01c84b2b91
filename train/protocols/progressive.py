"""progressive: the paper's order, sites in stages from the last backwards."""

from pathlib import Path
from typing import Any

import optax

import lcjax
from lcjax._table import render
from train.config.protocol import ProgressiveConfig
from train.engine.loop import Stage, TrainState
from train.engine.optimizers import make_adamw, warmup_cosine
from train.engine.stages import History, StageStart, first_variables
from train.protocols.fitting import candidates, collapse_by_fit
from train.protocols.healing import Healing
from train.runs.protocol import RunResult
from train.tasks.metric import Metric

Facts = dict[str, Any]
# Kinds of stages, as the metadata of stages/*/start store them.
_LINEARIZE, _HEAL = "bend", "heal"
# Peak rate of a stage relative to training: at the full rate a finished model would lose more than
# a site costs.
_STAGE_RATE = 0.2


class Progressive(Healing[ProgressiveConfig]):
    """The deep model (or --from), then stages of --sites-per-stage sites, then healing.

    A stage penalizes its sites until their gaps are within --max-gap, or for --stage-epochs, and
    collapses them by --fit. Stages end when no site is left, or when the model is worse than the
    deep one by more than --max-drop on the validation split: then the model before that stage is
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
        max_gap, sites = task.config.penalty.max_gap, set(facts["sites"])

        def is_linear(step: int, state: TrainState) -> bool:
            found = lcjax.find_sites(state.variables)
            gaps = [site.gap for site in found if site.path in sites]
            return all(gap is not None and gap <= max_gap for gap in gaps)

        end = facts["step"] + self._stage_steps
        return Stage(task.loss, tx, task.source, end, watch=is_linear)

    def next_stage(self, directory: Path, history: History, state: TrainState) -> StageStart | None:
        """Returns the start of the next stage, with the sites of this one collapsed."""
        if not history:
            return self._after_deep(state)
        if history[-1]["kind"] == _HEAL:
            return None
        return self._after_linearizing(directory, history, state)

    def finish(self, directory: Path, history: History, variables: Any) -> RunResult:
        """Returns the deep model and the last compact one within --max-drop."""
        deep, last = self.deep(directory), history[-1]
        compact = variables if last["kind"] == _HEAL else deep
        kept_models = tuple(
            {key: facts[key] for key in ("step", "collapsed", "parameters", "validation")}
            | {"path": f"stages/{number}/start"}
            for number, facts in enumerate(history, 1)
            if facts["collapsed"]
        )
        extra = {"progressive": {"deep_validation": history[0]["validation"]}}
        if "too_far" in last:
            extra["progressive"]["too_far"] = last["too_far"]
        text = _table(self.task.metric, history, self.settings.max_drop)
        return RunResult(deep, compact, tuple(last["collapsed"]), text, kept_models, extra)

    @property
    def heal_peak(self) -> float:
        """Peak learning rate of the stages after the deep model."""
        given, training = self.settings.heal_learning_rate, self.task.config.optimizer
        return training.learning_rate * _STAGE_RATE if given is None else given

    @property
    def _stage_steps(self) -> int:
        return max(1, self.task.steps_in(self.settings.stage_epochs))

    def _after_deep(self, state: TrainState) -> StageStart:
        facts = self._next_sites(
            state.step, state.variables, [], candidates(self.task, state.variables)
        )
        fresh: Any = self.optimizer([facts]).init(state.params)
        opt_state = fresh._replace(inner=state.opt_state)
        return StageStart(_with(state, state.variables, opt_state), facts)

    def _after_linearizing(
        self, directory: Path, history: History, state: TrainState
    ) -> StageStart | None:
        facts = history[-1]
        compact, report = collapse_by_fit(self.task, self.settings, state.variables, facts["sites"])
        collapsed = [*facts["sites"], *facts["collapsed"]]
        got = self._facts(state.step, compact, collapsed)
        if _drop(self.task.metric, history, got) > self.settings.max_drop:
            if not facts["collapsed"]:
                return None
            before = first_variables(directory, len(history))
            kept = self._facts(state.step, before, facts["collapsed"])
            kept |= {"kind": _HEAL, "too_far": got}
            return StageStart(_with(state, before, state.opt_state.inner), kept)
        carried = lcjax.carry_opt_state(
            self.optimizer(history), state.opt_state, state.params, compact["params"], report
        )
        left = facts["left"]
        if not left:
            return StageStart(_with(state, compact, carried.inner), got | {"kind": _HEAL})
        got = self._next_sites(state.step, compact, collapsed, left)
        opt_state = lcjax.update_site_selection(self.optimizer([got]), carried, compact["params"])
        return StageStart(_with(state, compact, opt_state), got)

    def _next_sites(
        self, step: Any, variables: Any, collapsed: list[str], left: list[str]
    ) -> Facts:
        """Returns the facts of a stage that linearizes the last of the remaining sites."""
        count = self.settings.sites_per_stage
        facts = self._facts(step, variables, collapsed)
        return facts | {"kind": _LINEARIZE, "sites": left[-count:], "left": left[:-count]}

    def _facts(self, step: Any, variables: Any, collapsed: list[str]) -> Facts:
        return {
            "step": int(step),
            "collapsed": collapsed,
            "parameters": lcjax.count_parameters(variables),
            "validation": self.task.scores(variables),
        }


def _with(state: TrainState, variables: Any, opt_state: Any) -> TrainState:
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    return TrainState(state.step, variables["params"], stats, opt_state)


def _drop(metric: Metric, history: History, facts: Facts) -> float:
    """Returns the drop of the score from the deep model's on the validation split."""
    deep, scores = (each["validation"] for each in (history[0], facts))
    return metric.score(deep) - metric.score(scores)


def _table(metric: Metric, history: History, max_drop: float) -> str:
    """Returns a table of the stages, and why they ended."""
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
    lines = [render(("at step", "collapsed", "parameters", "validation", "next sites"), rows)]
    last = history[-1]
    if "too_far" in last:
        lost = metric.show_drop(_drop(metric, history, last["too_far"]))
        sites = ", ".join(path for path in last["too_far"]["collapsed"])
        lines.append(
            f"with {sites} collapsed, validation {metric.name} was {lost} that of the deep model; "
            f"--max-drop {max_drop:g} allows {metric.show_drop(max_drop)}, so the model before it "
            "was healed."
        )
    if last["kind"] == _LINEARIZE:
        lines.append(
            f"the first stage lost more than --max-drop {max_drop:g}, so nothing was collapsed and "
            "the compact model is the deep one: raise --max-drop, --stage-epochs or --strength."
        )
    return "\n".join(lines)
