"""Language models: the penalty as a regulariser, surgery, baselines, and distillation.

`python -m benchmarks language`: resumes an interrupted benchmark; runs are kept. All models read
characters of tiny_shakespeare.

regulariser: a model that overfits; see benchmarks/quality/regulariser.py. surgery: the cheapest
FFNs of a trained model collapsed, by every fit, with and without healing, also SwiGLU, and after a
penalty. baselines: two FFNs pruned, of low rank or dropped, with the same healing; slopes learned
and annealed; the compact topology from scratch and distilled; the published method; and the deep
model; all in the same number of steps (those of a teacher are extra). distillation: the compact
topology, newly initialised, as a student of the deep model, for the steps and for the time that
lcjax took.
"""

import json
import statistics
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.harness.methods import costs, percent, site_counts
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.step_times import step_seconds
from benchmarks.harness.training_runs import (
    Run,
    Summary,
    mean_and_deviation,
    named,
    run_all,
)
from benchmarks.quality.language_runs import BASELINE_ROWS, STUDENTS, SURGERY, timed_students
from benchmarks.quality.regulariser import tune_regularisers

Part = Literal["regulariser", "surgery", "baselines", "distillation"]
# Equal in steps, but for the fit without training and a student's teacher.
_EQUAL_STEPS = (
    *("language-more-3e-3", "language-taught-3e-3-2", "language-least-squares-2", *BASELINE_ROWS),
    "language-student-all-steps",
)


def _loss(split: str) -> Any:
    return lambda point: mean_and_deviation([each["loss"] for each in point[split]], digits=4)


def _perplexity(point: dict[str, Any]) -> str:
    return mean_and_deviation([each["perplexity"] for each in point["test"]], digits=3)


def _shrinkage(point: dict[str, Any]) -> str:
    return f"{point['deep_parameters']:,} → {statistics.mean(point['parameters']):,.0f}"


_COLUMNS = (
    Column("run", "run"),
    Column("validation loss", _loss("validation")),
    Column("test loss", _loss("test")),
    Column("test perplexity", _perplexity),
    Column("parameters", _shrinkage),
    Column("FLOPs, %", percent("flops_ratio"), "{:.1f}"),
    Column("time, %", percent("time_ratio"), "{:.1f}"),
    Column("sites", site_counts),
)


def regulariser(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns every regulariser at its best settings."""
    return [
        _point(each.title, each.run, each.found) | {"tried": each.tried}
        for each in tune_regularisers(seeds, runs_dir)
    ]


def surgery(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns collapsed models, by every fit, with and without healing."""
    runs = named(SURGERY)
    found = run_all(runs, list(SURGERY), seeds=seeds, runs_dir=runs_dir)
    return [_point(run.name, run, found[run.name]) for run in runs]


def baselines(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns lcjax's default and other methods for a model of its size."""
    runs = {run.name: run for run in named(SURGERY | STUDENTS | BASELINE_ROWS)}
    found = run_all(runs.values(), _EQUAL_STEPS, seeds=seeds, runs_dir=runs_dir)
    return [_point(name, runs[name], found[name]) for name in _EQUAL_STEPS]


def distillation(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns the healed models and the students, and the seconds of a step of each.

    A step of healing with the deep model as teacher takes as long as a student's step.
    """
    healed = [name for name in SURGERY if name.startswith(("language-healed", "language-taught"))]
    first = run_all(named(SURGERY), healed, seeds=seeds, runs_dir=runs_dir)
    times = _times(runs_dir, seeds[0])
    timed = timed_students(times)
    runs = {run.name: run for run in named(SURGERY | STUDENTS | timed)}
    names = [*healed, *STUDENTS, *timed]
    found = first | run_all(runs.values(), names, seeds=seeds, runs_dir=runs_dir)
    return [_point(name, runs[name], found[name]) | {"step_seconds": times} for name in names]


PARTS = {
    "regulariser": regulariser,
    "surgery": surgery,
    "baselines": baselines,
    "distillation": distillation,
}


def main(
    parts: tuple[Part, ...] = ("regulariser", "surgery", "baselines", "distillation"),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints a table and writes a JSON per part.

    Args:
      parts: of the benchmark.
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    for part in parts:
        points = PARTS[part](seeds, runs_dir)
        table = tabulate(_COLUMNS, points)
        config = {"seeds": list(seeds)}
        publish(f"language-{part}", config, points, table, results_dir=results_dir)


def _times(runs_dir: Path, seed: int) -> dict[str, float]:
    """Returns seconds per step; measured once, as the lengths of runs depend on them."""
    path = runs_dir / "language-step-seconds.json"
    if not path.exists():
        path.write_text(json.dumps(step_seconds(runs_dir / f"language-healed-2-{seed}")))
    return json.loads(path.read_text())


def _point(name: str, run: Run, found: list[Summary]) -> dict[str, Any]:
    return {
        "run": name,
        "command": run.command,
        "evaluation": found[0]["evaluation"],
        "deep_parameters": found[0]["deep"]["parameters"],
        **costs(found),
        "deep_test": [summary["deep"]["test"] for summary in found],
        "validation": [summary["compact"]["validation"] for summary in found],
        "test": [summary["compact"]["test"] for summary in found],
    }


if __name__ == "__main__":
    tyro.cli(main)
