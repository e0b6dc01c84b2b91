"""Language models: the penalty as a regulariser, surgery, its peers, and distillation beside it.

`python -m benchmarks.language`: resumes where it was stopped; the runs stay in runs/benchmark. All
on characters of tiny_shakespeare.

regulariser: a model that overfits; see benchmarks/regulariser.py. surgery: the cheapest FFNs of a
trained model collapsed, by every fit, with healing and without, SwiGLU too, and after a penalty.
peers: two FFNs pruned, of low rank or removed and healed alike, slopes learned and annealed, the
compact topology from scratch and distilled, the published method, and the deep model, in as many
steps (a teacher has its own besides).
distillation: the same compact topology, new, as a student of the deep model: as many steps, and as
much time, as lcjax took.
"""

import json
import statistics
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.language_rows import PEER_ROWS, STUDENTS, SURGERY, timed_students
from benchmarks.record import RESULTS, Table, publish
from benchmarks.regulariser import regulariser
from benchmarks.step_time import step_seconds
from benchmarks.training_runs import Summary, command, mean_and_deviation, measured
from benchmarks.ways import costs, percent

Part = Literal["regulariser", "surgery", "peers", "distillation"]
# All in as many steps, but for what needs no training, and a student's teacher.
_EQUAL = (
    *("language-more-3e-3", "language-taught-3e-3-2", "language-least-squares-2", *PEER_ROWS),
    "language-student-all-steps",
)


def peers(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns lcjax's default beside other ways to a model of its size."""
    rows = SURGERY | STUDENTS | PEER_ROWS
    found = measured(rows, _EQUAL, seeds=seeds, runs_dir=runs_dir)
    return [_point(name, rows[name], found[name]) for name in _EQUAL]


def distillation(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns the healed models and the students, and what a step of each takes.

    A step of healing with the deep model for a teacher takes what a student's step takes.
    """
    healed = [name for name in SURGERY if name.startswith(("language-healed", "language-taught"))]
    first = measured(SURGERY, healed, seeds=seeds, runs_dir=runs_dir)
    times = _times(runs_dir, seeds[0])
    timed = timed_students(times)
    rows, chosen = SURGERY | STUDENTS | timed, [*healed, *STUDENTS, *timed]
    found = first | measured(rows, chosen, seeds=seeds, runs_dir=runs_dir)
    return [_point(name, rows[name], found[name]) | {"step_seconds": times} for name in chosen]


def _times(runs_dir: Path, seed: int) -> dict[str, float]:
    """Returns seconds a step; measured once, as the lengths of runs depend on it."""
    path = runs_dir / "language-step-seconds.json"
    if not path.exists():
        path.write_text(json.dumps(step_seconds(runs_dir / f"language-healed-2-{seed}")))
    return json.loads(path.read_text())


def main(
    parts: tuple[Part, ...] = ("regulariser", "surgery", "peers", "distillation"),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table a part, and writes a JSON a part.

    Args:
      parts: which of them.
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    for part in parts:
        if part == "regulariser":
            points = [
                _point(each.method, each.arguments, each.found) | {"tried": each.tried}
                for each in regulariser(seeds, runs_dir)
            ]
        elif part in ("peers", "distillation"):
            points = {"peers": peers, "distillation": distillation}[part](seeds, runs_dir)
        else:
            found = measured(SURGERY, list(SURGERY), seeds=seeds, runs_dir=runs_dir)
            points = [_point(name, SURGERY[name], found[name]) for name in SURGERY]
        headers = ("run", "validation loss", "test loss", "test perplexity", "parameters",
                   "FLOPs, %", "time, %", "sites")  # fmt: skip
        table, config = Table(headers, [_cells(point) for point in points]), {"seeds": list(seeds)}
        publish(f"language-{part}", config, points, table, results_dir=results_dir)


def _point(name: str, arguments: tuple[str, ...], found: list[Summary]) -> dict[str, Any]:
    return {
        "run": name,
        "command": command(arguments),
        "evaluation": found[0]["evaluation"],
        "deep_parameters": found[0]["deep"]["parameters"],
        **costs(found),
        "deep_test": [summary["deep"]["test"] for summary in found],
        "validation": [summary["compact"]["validation"] for summary in found],
        "test": [summary["compact"]["test"] for summary in found],
    }


def _cells(point: dict[str, Any]) -> tuple[str, ...]:
    losses = [[each["loss"] for each in point[split]] for split in ("validation", "test")]
    perplexities = [each["perplexity"] for each in point["test"]]
    size = statistics.mean(point["parameters"])
    counts = sorted({len(each) for each in point["collapsed"]})
    return (
        point["run"],
        *(mean_and_deviation(each, digits=4) for each in losses),
        mean_and_deviation(perplexities, digits=3),
        f"{point['deep_parameters']:,} → {size:,.0f}",
        *(percent(point[key]) for key in ("flops_ratio", "time_ratio")),
        " / ".join(map(str, counts)),
    )


if __name__ == "__main__":
    tyro.cli(main)
