"""Time to a compact model of a given accuracy: lcjax and distillation on the Fashion-MNIST MLP.

`python -m benchmarks time_to_accuracy`: resumes an interrupted benchmark; runs are kept. Every
method runs with several lengths of training, and ends without the last two activations. Its time is
that of its steps, all kinds measured interleaved in one process, and of surgery: planning,
calibration, fit. Compilation, data loading and evaluation are excluded, except that the plan's own
evaluations count. Times are reported without and with the training of the deep model.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import tyro

from benchmarks.deep_runs import PLAIN
from benchmarks.harness.methods import accuracy, sizes
from benchmarks.harness.plots import plot_time_to_accuracy
from benchmarks.harness.publish import RESULTS, Column, Table, publish, tabulate
from benchmarks.harness.step_times import step_seconds, surgery_seconds
from benchmarks.harness.training_runs import Arguments, Run, RunDirectory, parameters, run_all

TARGETS = (0.875, 0.88, 0.885, 0.89)
DEEP_EPOCHS = 6
_MLP = ("train.image", "fashion-mlp")
_DEEP = "time-deep"
# Healing as in benchmarks/quality/images.py.
_HEALED = (
    *(*_MLP, "--protocol", "fit-heal", "--from", RunDirectory(_DEEP), "--fit", "least_squares"),
    *("--count", "2", "--order", "last", "--weight-decay", "0", "--warmup", "0.1"),
    *("--learning-rate", "1e-3", "--deep-teacher", "--heal-epochs"),
)
_COMPACT = (*_MLP, "--hidden", "512", *PLAIN)
_STUDENT = (*_COMPACT, "--teacher", RunDirectory(_DEEP), "--epochs")


@dataclasses.dataclass(frozen=True)
class Timed:
    """A method at several lengths of training.

    Attributes:
      title: of the method.
      arguments: of its runs, without the length, their last one.
      lengths: in epochs.
      step: its kind of step, of `step_seconds`.
      needs_deep: whether it starts from the deep model.
    """

    title: str
    arguments: Arguments
    lengths: tuple[str, ...]
    step: str
    needs_deep: bool

    def run(self, length: str) -> Run:
        """Returns the run of this length."""
        name = self.title.removeprefix("lcjax: ").replace(",", "").replace(" ", "-")
        return Run(f"time-{name}-{length}", (*self.arguments, length))


_FITTED = Timed(
    "lcjax: least squares, healed", _HEALED, ("0", "0.25", "1", "3"), "student", needs_deep=True
)
METHODS = (
    Timed(
        "lcjax: slopes from the start",
        (*_MLP, "--last", "2", "--epochs"),
        ("1", "2", "3", "6"),
        "slopes",
        needs_deep=False,
    ),
    _FITTED,
    Timed("distilled", _STUDENT, ("1", "2", "3", "6", "12"), "student", needs_deep=True),
    Timed(
        "from scratch",
        (*_COMPACT, "--epochs"),
        ("1", "2", "3", "6", "12"),
        "healing",
        needs_deep=False,
    ),
)


def runs() -> list[Run]:
    """Returns all runs, the deep network first."""
    deep = Run(_DEEP, (*_MLP, *PLAIN, "--epochs", str(DEEP_EPOCHS)))
    return [deep, *(method.run(length) for method in METHODS for length in method.lengths)]


def points(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns accuracy and time of every method at every length; JSON."""
    known = runs()
    summaries = run_all(known, [run.name for run in known], seeds=seeds, runs_dir=runs_dir)
    healed = runs_dir / f"{_FITTED.run('1').name}-{seeds[0]}"
    each_step, surgery = step_seconds(healed), surgery_seconds(healed)
    deep_steps = summaries[_DEEP][0]["steps"]
    before = deep_steps * each_step["deep"]
    found = []
    for method in METHODS:
        for length in method.lengths:
            run = method.run(length)
            own = deep_steps * float(length) / DEEP_EPOCHS * each_step[method.step]
            own += surgery if summaries[run.name][0]["protocol"] == "fit-heal" else 0
            found.append(
                {
                    "method": method.title,
                    "command": run.command,
                    "epochs": float(length),
                    "seconds": own,
                    "seconds_with_deep": own + before * method.needs_deep,
                    "parameters": [parameters(each) for each in summaries[run.name]],
                    "accuracy": [
                        each["compact"]["test"]["accuracy"] for each in summaries[run.name]
                    ],
                }
            )
    return found


def seconds_to_targets(found: list[dict[str, Any]], seconds: str) -> Table:
    """Returns, for every method, the least time among its lengths to every target.

    Models of other sizes, whose slopes did not reach 1, are excluded.

    Args:
      found: from `points`.
      seconds: which of the times.
    """
    title = "deep model given" if seconds == "seconds" else "deep model's training included"
    rows = []
    for method in METHODS:
        mine = [point for point in of_least_size(found) if point["method"] == method.title]
        least = [
            min((p[seconds] for p in mine if statistics.mean(p["accuracy"]) >= goal), default=None)
            for goal in TARGETS
        ]
        rows.append((method.title, *("–" if each is None else f"{each:.1f}" for each in least)))
    headers = ("method", *(f"{100 * target:g} %" for target in TARGETS))
    return Table(
        headers, rows, f"Least seconds of training and surgery to a test accuracy, {title}"
    )


_COLUMNS = (
    Column("method", "method"),
    Column("epochs", "epochs", "{:g}"),
    Column("seconds", "seconds", "{:.1f}"),
    Column("with the deep model's", "seconds_with_deep", "{:.1f}"),
    Column("test, %", accuracy("accuracy")),
    Column("parameters", sizes),
)


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints tables, writes a JSON and a plot.

    Args:
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    found = points(seeds, runs_dir)
    tables = [seconds_to_targets(found, each) for each in ("seconds", "seconds_with_deep")]
    tables.append(tabulate(_COLUMNS, found))
    publish("time_to_accuracy", {"seeds": list(seeds)}, found, *tables, results_dir=results_dir)
    print(plot_time_to_accuracy(of_least_size(found), results_dir / "time_to_accuracy.png"))


def of_least_size(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the points whose models all have the least number of parameters."""
    size = min(min(point["parameters"]) for point in found)
    return [point for point in found if max(point["parameters"]) == size]


if __name__ == "__main__":
    tyro.cli(main)
