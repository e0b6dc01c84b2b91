"""Trial collapses of one model, which share the statistics that they have in common."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from lcjax.algebra.moments import Moments
from lcjax.calibration.calibrate import Calibration, Fit, pairs_of, runs_to_fit
from lcjax.calibration.statistics import Pair, gather
from lcjax.structure.runs import Run
from lcjax.surgery.collapse import collapse
from lcjax.surgery.replacement import Replacement, Truncation
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.sequential import in_turn
from lcjax.validation.arguments import check_tree
from lcjax.validation.batches import check_batches
from lcjax.validation.functions import check_function, check_metric, score

Metric = Callable[[Any], Any]
AnyFit = Fit | Literal["exact"]


class Trials:
    """Trial collapses of one deep model.

    Args:
      apply_fn: runs Flax linen modules in inference mode; None will do for the exact fuse.
      variables: of the deep model.
      metric: `metric(variables)` returns a number, higher is better.
      batches: to calibrate with, more than once; None will do for the exact fuse.
      fit: "exact", "moments" or "least_squares".
      sequential: whether runs are fitted one after another.
      fitting: ridge, rank and tolerance.
      gathering: mask, holdout and progress.

    Raises:
      ValueError: an unknown fit.
      TypeError: batches that can be gone through only once.
    """

    def __init__(
        self,
        apply_fn: Callable[..., Any] | None,
        variables: Mapping[str, Any],
        metric: Metric,
        batches: Iterable[Any] | None,
        fit: AnyFit,
        *,
        sequential: bool,
        fitting: Mapping[str, Any],
        gathering: Mapping[str, Any],
    ):
        check_tree(variables, "a plan or sensitivity")
        check_metric(metric)
        self._variables, self._metric = variables, metric
        self._fit: AnyFit = fit
        self._sequential, self._fitting, self._gathering = sequential, fitting, gathering
        self._known: dict[Pair, tuple[Moments, Moments]] = {}
        self._replaced: dict[tuple[Run, ...], Replacement] = {}
        if fit == "exact":
            return
        pairs_of([], fit)  # raises on an unknown fit
        if apply_fn is None or batches is None:
            raise TypeError(f"fit={fit!r} needs apply_fn and batches; fit='exact' does without.")
        check_function(apply_fn)
        check_batches(batches, more_than_once="each trial")
        self._apply_fn, self._batches = apply_fn, batches

    @property
    def progress(self) -> bool:
        """Whether what takes long shows a bar."""
        return bool(self._gathering["progress"])

    def score(self, variables: Any) -> float:
        """Returns the metric of variables.

        Raises:
          ValueError: when it is not finite.
        """
        value = score(self._metric, variables)
        if not math.isfinite(value):
            raise ValueError(f"metric returned {value}, wanted a finite number, higher is better.")
        return value

    def learn(self, choices: Iterable[Sequence[str]]) -> None:
        """Gathers, in one pass, the statistics of choices of which no two runs end alike."""
        if self._fit != "exact":
            runs = [run for sites in choices for run in runs_to_fit(self._variables, sites)]
            self._gather(pairs_of(runs, self._fit))

    def collapse(self, sites: Sequence[str]) -> tuple[Any, CollapseReport]:
        """Returns the tree with these sites collapsed, and the report."""
        if self._fit == "exact":
            factors = {name: self._fitting[name] for name in ("rank", "tolerance")}
            return collapse(self._variables, sites, threshold=math.inf, **factors)
        runs = runs_to_fit(self._variables, sites)
        if self._sequential and len(runs) > 1:
            return in_turn(
                self._apply_fn,
                self._variables,
                self._batches,
                sites,
                fit=self._fit,
                ridge=self._fitting["ridge"],
                truncation=Truncation(self._fitting["rank"], self._fitting["tolerance"]),
                gathering=self._gathering,
                known=self._replaced,
            )
        return collapse(self._variables, fit=self._calibration(runs, self._fit), **self._fitting)

    def _calibration(self, runs: tuple[Run, ...], fit: Fit) -> Calibration:
        pairs = pairs_of(runs, fit)
        self._gather(pairs)
        return Calibration(
            fitted={pair.key: self._known[pair][0] for pair in pairs},
            held={pair.key: self._known[pair][1] for pair in pairs},
            fit=fit,
            runs=runs,
        )

    def _gather(self, pairs: Iterable[Pair]) -> None:
        missing = tuple(pair for pair in pairs if pair not in self._known)
        if missing:
            fitted, held = gather(
                self._apply_fn, self._variables, self._batches, missing, **self._gathering
            )
            self._known |= {pair: (fitted[pair.key], held[pair.key]) for pair in missing}
