"""The rate of healing of a method: chosen from a grid on the validation split of one seed."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness.training_runs import Arguments, Run, Summary, run_all
from train.tasks.metric import ACCURACY, LOSS

_METRICS = {metric.name: metric for metric in (ACCURACY, LOSS)}
_RATE = "--heal-learning-rate"


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A method that is run at one rate of a grid.

    Attributes:
      name: of its runs, without the rate.
      arguments: of its runs, the module first, without the rate.
      rates: the grid, as the command line takes them.
    """

    name: str
    arguments: Arguments
    rates: tuple[str, ...]

    def run(self, rate: str) -> Run:
        """Returns the run at a rate."""
        return Run(f"{self.name}-{rate}", (*self.arguments, _RATE, rate))


def score(summary: Summary) -> float:
    """Returns the score of a run's compact model on the validation split; higher is better."""
    return _METRICS[summary["metric"]].score(summary["compact"]["validation"])


def run_tuned(
    method: Tuned, others: Iterable[Run], *, seeds: Sequence[int], runs_dir: Path
) -> tuple[str, dict[str, float], list[Summary]]:
    """Runs every rate with the first seed, and the best one with all seeds.

    Args:
      method: with its grid.
      others: runs that it may need.
      seeds: of the runs; the first one chooses the rate.
      runs_dir: directory of the runs; finished ones are not repeated.

    Returns:
      the rate, the validation scores by rate, and the summaries at the rate, one per seed.
    """
    known = [*others, *map(method.run, method.rates)]

    def summaries(rate: str, seeds: Sequence[int]) -> list[Summary]:
        name = method.run(rate).name
        return run_all(known, [name], seeds=seeds, runs_dir=runs_dir)[name]

    scores = {rate: score(summaries(rate, seeds[:1])[0]) for rate in method.rates}
    best = max(scores, key=lambda rate: scores[rate])
    return best, scores, summaries(best, seeds)
