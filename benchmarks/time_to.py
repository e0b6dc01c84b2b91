"""Time to a compact model of a given accuracy: lcjax and distillation on the Fashion-MNIST MLP.

`python -m benchmarks.time_to`: resumes where it was stopped; the runs stay in runs/benchmark. Every
way takes several lengths, all to the topology without the last two activations. Its time is that of
its steps, each kind measured by turns in one process, and of surgery: planning, calibration, fit.
Compilation, reading and evaluation are left out. Once the deep model counts as given, once its
training is counted too.
"""

import statistics
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, Table, publish
from benchmarks.step_time import step_seconds, surgery_seconds
from benchmarks.time_picture import draw
from benchmarks.training_runs import Rows, command, mean_and_deviation, measured, parameters

TARGETS = (0.875, 0.88, 0.885, 0.89)
DEEP_EPOCHS = 6
_MLP = ("fashion-mlp",)
_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")
_DEEP = "time-deep"
# Healing as benchmarks/images.py has it.
_HEALED = (
    *(*_MLP, "--protocol", "fit-heal", "--from", f"{{{_DEEP}}}", "--fit", "least_squares"),
    *("--count", "2", "--order", "last", "--weight-decay", "0", "--warmup", "0.1"),
    *("--learning-rate", "1e-3", "--deep-teacher", "--heal-epochs"),
)
_COMPACT = (*_MLP, "--hidden", "512", *_PLAIN)
_STUDENT = (*_COMPACT, "--teacher", f"{{{_DEEP}}}", "--epochs")
# By name: the arguments but for the length, the lengths in epochs, the kind of step, and whether it
# needs the deep model.
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, bool]] = {
    "lcjax: slopes from the start": (
        (*_MLP, "--last", "2", "--epochs"),
        ("1", "2", "3", "6"),
        "slopes",
        False,
    ),
    "lcjax: least squares, healed": (_HEALED, ("0", "0.25", "1", "3"), "student", True),
    "distilled": (_STUDENT, ("1", "2", "3", "6", "12"), "student", True),
    "from scratch": ((*_COMPACT, "--epochs"), ("1", "2", "3", "6", "12"), "healing", False),
}


def rows() -> Rows:
    """Returns the rows by name, the deep network first."""
    found: dict[str, tuple[str, ...]] = {
        _DEEP: (*_MLP, *_PLAIN, "--epochs", str(DEEP_EPOCHS)),
    }
    for way, (arguments, lengths, _, _) in WAYS.items():
        found |= {_row(way, length): (*arguments, length) for length in lengths}
    return found


def points(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns accuracy and time of every way at every length; JSON."""
    every = rows()
    runs = measured(every, list(every), seeds=seeds, runs_dir=runs_dir)
    healed = runs_dir / f"{_row('lcjax: least squares, healed', '1')}-{seeds[0]}"
    each_step, surgery = step_seconds(healed), surgery_seconds(healed)
    deep_steps = runs[_DEEP][0]["steps"]
    before = deep_steps * each_step["deep"]
    found = []
    for way, (_, lengths, kind, needs_deep) in WAYS.items():
        for length in lengths:
            row = _row(way, length)
            summaries = runs[row]
            own = deep_steps * float(length) / DEEP_EPOCHS * each_step[kind]
            own += surgery if summaries[0]["protocol"] == "fit-heal" else 0
            found.append(
                {
                    "method": way,
                    "command": command(every[row]),
                    "epochs": float(length),
                    "seconds": own,
                    "seconds_with_deep": own + before * needs_deep,
                    "parameters": [parameters(each) for each in summaries],
                    "accuracy": [each["compact"]["test"]["accuracy"] for each in summaries],
                }
            )
    return found


def reached(found: list[dict[str, Any]], seconds: str) -> Table:
    """Returns, for every way, the least time among its lengths to every target.

    Models in which slopes did not arrive, larger than the others, do not count.

    Args:
      found: from `points`.
      seconds: which of the times.
    """
    named = "the deep model given" if seconds == "seconds" else "its training counted"
    lines = []
    for way in WAYS:
        mine = [point for point in _of_the_size(found) if point["method"] == way]
        least = [
            min((p[seconds] for p in mine if statistics.mean(p["accuracy"]) >= goal), default=None)
            for goal in TARGETS
        ]
        lines.append((way, *("–" if each is None else f"{each:.1f}" for each in least)))
    headers = ("way", *(f"{100 * target:g} %" for target in TARGETS))
    return Table(headers, lines, f"Least seconds of training to a test accuracy, {named}")


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints tables, writes a JSON and a picture.

    Args:
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    found = points(seeds, runs_dir)
    table = Table(("way", "epochs", "seconds", "with the deep model's", "test, %", "parameters"),
                  [_cells(each) for each in found])  # fmt: skip
    tables = (reached(found, "seconds"), reached(found, "seconds_with_deep"), table)
    publish("time_to", {"seeds": list(seeds)}, found, *tables, results_dir=results_dir)
    print(draw(_of_the_size(found), results_dir / "time_to.png"))


def _of_the_size(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the points whose models all have the least size that there is."""
    size = min(min(point["parameters"]) for point in found)
    return [point for point in found if max(point["parameters"]) == size]


def _row(way: str, length: str) -> str:
    name = way.removeprefix("lcjax: ").replace(",", "").replace(" ", "-")
    return f"time-{name}-{length}"


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["method"],
        f"{found['epochs']:g}",
        *(f"{found[key]:.1f}" for key in ("seconds", "seconds_with_deep")),
        mean_and_deviation([100 * each for each in found["accuracy"]]),
        " / ".join(f"{size:,}" for size in sorted(set(found["parameters"]))),
    )


if __name__ == "__main__":
    tyro.cli(main)
