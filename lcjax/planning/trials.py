"""Trial collapses of one model, which share the statistics that they have in common."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from lcjax.algebra.moments import Moments
from lcjax.calibration.calibrate import segments_to_fit
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import Fit, check_fit
from lcjax.calibration.statistics import SplitMoments
from lcjax.errors import BypassedError
from lcjax.structure.front_end import Collapsible, Observed
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment, SegmentId
from lcjax.surgery.checks import solve_checked, solve_each
from lcjax.surgery.collapse import collapse_model
from lcjax.surgery.report import CollapseReport, make_report
from lcjax.surgery.sequential import (
    SolvedStep,
    SolvedSteps,
    forward_paths,
    run_steps,
    steps_in_order,
)
from lcjax.validation.batches import check_batches
from lcjax.validation.functions import check_metric, score

MetricFn = Callable[[Any], Any]


class Trials:
    """Trial collapses of one deep model.

    Args:
      model: the deep model.
      metric: `metric(variables)` returns a number, higher is better.
      data: to calibrate with, more than once; None is enough for an exact fuse.
      fit: how replacements are found.
      sequential: whether segments are fitted one after another; None takes what the fit says.

    Raises:
      TypeError: something other than a fit; batches that can be iterated only once, or missing.
    """

    def __init__(
        self,
        model: Collapsible,
        metric: MetricFn,
        data: CalibrationData | Iterable[Any] | None,
        fit: Fit,
        *,
        sequential: bool | None = None,
    ):
        check_metric(metric)
        check_fit(fit)
        if fit.needs_data and data is None:
            raise TypeError(
                f"data: got None, expected batches for {fit}; only lcjax.Exact() needs none."
            )
        self._model, self._metric, self._fit = model, metric, fit.reduced()
        self._data = None if data is None else as_data(data)
        if fit.needs_data and self._data is not None:
            check_batches(self._data.batches, more_than_once="each trial")
        self._sequential = fit.sequential if sequential is None else sequential
        self._moments: dict[Hashable, tuple[Moments, Moments]] = {}
        self._alone: dict[SegmentId, Replacement] = {}
        self._solved: SolvedSteps = {}
        self._measured: dict[tuple[str, ...], tuple[float, CollapseReport]] = {}

    @property
    def progress(self) -> bool:
        """Whether a bar is shown when trials take long."""
        return self._data is None or self._data.progress

    def evaluate(self, variables: Any) -> float:
        """Returns the metric of variables.

        Raises:
          ValueError: when it is not finite.
        """
        value = score(self._metric, variables)
        if not math.isfinite(value):
            raise ValueError(
                f"metric returned {value}; expected a finite number, higher is better."
            )
        return value

    def measure(self, sites: Sequence[str]) -> tuple[float, CollapseReport]:
        """Returns the metric with these sites collapsed, and the report; each choice is tried once.

        Args:
          sites: paths, in the order in which they are added to a plan.

        Raises:
          BypassedError: as `lcjax.collapse`.
          ValueError: when the metric is not finite.
        """
        key = tuple(sites)
        if key not in self._measured:
            compact, report = self.collapse(sites)
            self._measured[key] = self.evaluate(compact), report
        return self._measured[key]

    def prefetch_statistics(self, choices: Iterable[Sequence[str]]) -> None:
        """Collects, in one pass, the statistics of choices whose segments have different keys."""
        if not self._fit.needs_data:
            return
        found: list[Segment] = []
        for sites in choices:
            with suppress(BypassedError):  # raised again by the collapse of this choice
                found += self._segments(sites)
        self._collect(found)

    def collapse(self, sites: Sequence[str]) -> tuple[Any, CollapseReport]:
        """Returns the tree with these sites collapsed, and the report."""
        model, fit = self._model, self._fit
        if not fit.needs_data:
            return collapse_model(model, sites, fit.at_any_gap())
        assert self._data is not None
        segments = self._segments(sites)
        if self._sequential and len(segments) > 1:
            steps = steps_in_order(model, dict.fromkeys(sites, fit), self._order)
            if (steps[0],) not in self._solved:
                (first,) = (each for each in segments if each.sites == steps[0].sites)
                alone = self._solve_alone([first])
                self._solved[steps[0],] = SolvedStep(first, alone[first], model.rebuild(alone))
            return run_steps(model, steps, self._data, self._solved)
        if fit.observed == "hidden":
            replacements = solve_each(fit, segments, self._collect(segments))
        else:
            replacements = self._solve_alone(segments)
        rebuilt = model.rebuild(replacements)
        return rebuilt.tree, make_report(model.sites, replacements, rebuilt, ())

    def _segments(self, sites: Sequence[str]) -> list[Segment]:
        return segments_to_fit(self._model, sites, self._fit)

    @cached_property
    def _order(self) -> Sequence[str]:
        """The paths of the sites in the order in which the model runs them."""
        assert self._data is not None
        return forward_paths(self._model, self._data)

    def _solve_alone(self, segments: Sequence[Segment]) -> dict[Segment, Replacement]:
        """Returns the replacements of segments of which none is fitted behind another."""
        missing = [segment for segment in segments if segment.id not in self._alone]
        if missing:
            statistics = self._collect(missing)
            self._alone |= {s.id: solve_checked(self._fit, s, statistics) for s in missing}
        return {segment: self._alone[segment.id] for segment in segments}

    def _collect(self, segments: Sequence[Segment]) -> SplitMoments:
        """Returns the statistics of segments; a pass collects those that are not known yet."""
        observed = self._fit.observed
        missing = [
            s for s in segments if any(name not in self._moments for _, name in _keys(s, observed))
        ]
        if missing:
            assert self._data is not None
            found = collect_for_fit(self._model, missing, self._data, self._fit)
            for segment in missing:
                for key, name in _keys(segment, observed):
                    self._moments[name] = (found.train[key], found.held_out[key])
        known = {key: self._moments[name] for s in segments for key, name in _keys(s, observed)}
        return SplitMoments(
            {key: train for key, (train, _) in known.items()},
            {key: held_out for key, (_, held_out) in known.items()},
        )


def _keys(segment: Segment, observed: Observed) -> list[tuple[str, Hashable]]:
    """Returns the keys of a segment's statistics, each with a name that no other segment has."""
    if observed == "unit":
        return [(site, site) for part in segment.id.parts for site in part.sites]
    return [(part.key, part) for part in segment.id.parts]
