"""Language models: the penalty as a regulariser, surgery, and distillation beside it.

`python -m benchmarks.language`: resumes where it was stopped; the runs stay in runs/benchmark. All
on characters of tiny_shakespeare.

regulariser: a model that overfits, as it sees a tenth of the text. Every way to regularise is tried
with the first seed: first its strengths, all for 15 epochs, then other lengths at the strength that
validates best; the best of them all is run with all seeds. surgery: the cheapest FFNs of a trained
model collapsed, by every fit, with healing and without, SwiGLU too, and after a penalty.
distillation: the same compact topology, new, as a student of the deep model: as many steps, and as
much time, as lcjax took.
"""

import json
import statistics
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.record import RESULTS, Table, publish
from benchmarks.step_time import step_seconds
from benchmarks.training_runs import Summary, command, mean_and_deviation, measured

Part = Literal["regulariser", "surgery", "distillation"]
Rows = dict[str, tuple[str, ...]]

_SMALL = ("train.language", "shakespeare-small")
_SWIGLU = ("train.language", "shakespeare-swiglu")
_NATURAL = ("--protocol", "natural")
_PLAIN = (*_NATURAL, "--strength", "0", "--slope-learning-rate", "0")
_EPOCHS, _HEAL_EPOCHS = 3, 1.0

# The regulariser's grid.
_TENTH = (*_SMALL, "--train-tokens", "100000", "--stride", "128")
LENGTH, OTHER_LENGTHS = 15, (8, 30)
DECAYS = (0.1, 1.0, 3.0)
DROPOUTS = (0.1, 0.2, 0.4)
STRENGTHS = (0.003, 0.01, 0.03)


def regularised(
    *, epochs: int, decay: float = 0.0, dropout: float = 0.0, strength: float = 0.0
) -> tuple[str, tuple[str, ...]]:
    """Returns the name and the arguments of a run on a tenth of the text."""
    name = f"language-tenth-{epochs}-{decay:g}-{dropout:g}-{strength:g}"
    bent = (*_NATURAL, "--strength", f"{strength:g}") if strength else _PLAIN
    own = ("--epochs", f"{epochs}", "--weight-decay", f"{decay:g}", "--dropout", f"{dropout:g}")
    return name, (*_TENTH, *own, *bent)


def regulariser(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns, for every way, its best settings with all seeds, and what it tried."""
    best: dict[str, dict[str, float]] = {}

    def choose(method: str, settings: list[dict[str, float]]) -> dict[str, Any]:
        tried: Rows = {}
        losses: dict[str, float] = {}

        def attempt(setting: dict[str, float], epochs: int) -> float:
            name, tried[name] = regularised(epochs=epochs, **setting)
            found = measured(tried, [name], seeds=seeds[:1], runs_dir=runs_dir)[name]
            losses[name] = _loss(found[0], "validation")
            return losses[name]

        best[method] = min(settings, key=lambda setting: attempt(setting, LENGTH))
        for epochs in OTHER_LENGTHS:
            attempt(best[method], epochs)
        row = min(losses, key=lambda name: losses[name])
        whole = measured(tried, [row], seeds=seeds, runs_dir=runs_dir)[row]
        return _point(method, tried[row], whole) | {"tried": losses}

    points = [
        choose("plain", [{}]),
        choose("weight decay", [{"decay": each} for each in DECAYS]),
        choose("dropout", [{"dropout": each} for each in DROPOUTS]),
        choose("LayerCollapse", [{"strength": each} for each in STRENGTHS]),
    ]
    both = [best["dropout"] | {"strength": each} for each in STRENGTHS]
    return [*points, choose("LayerCollapse + dropout", both)]


def _collapsed(preset: tuple[str, ...], deep: str, fit: str, count: int, heal: float) -> tuple:
    start = (*preset, "--from", f"{{{deep}}}", "--fit", fit, "--count", f"{count}")
    return (*start, "--heal-epochs", f"{heal:g}")


def _healed(rate: str) -> tuple[str, ...]:
    healed = _collapsed(_SMALL, "language-deep", "least_squares", 2, _HEAL_EPOCHS)
    return (*healed, "--heal-learning-rate", rate)


SURGERY: Rows = {
    "language-deep": (*_SMALL, *_PLAIN),
    **{
        f"language-{fit.replace('_', '-')}-{count}": _collapsed(
            _SMALL, "language-deep", fit, count, 0
        )
        for fit in ("exact", "moments", "least_squares")
        for count in (1, 2)
    },
    "language-healed-2": (*_healed("1e-3"), "--no-deep-teacher"),
    "language-taught-2": _healed("1e-3"),
    # The rate of the training before, the best on the validation split with the first seed.
    "language-taught-3e-3-2": _healed("3e-3"),
    # What the healed ones are held against: as many epochs, nothing collapsed.
    **{
        row: (
            *(*_SMALL, "--from", "{language-deep}", *_PLAIN),
            *("--epochs", f"{_HEAL_EPOCHS:g}", "--learning-rate", rate),
        )
        for row, rate in (("language-more", "1e-3"), ("language-more-3e-3", "3e-3"))
    },
    "language-natural": (*_SMALL, *_NATURAL),
    "language-natural-least-squares-2": _collapsed(
        _SMALL, "language-natural", "least_squares", 2, 0
    ),
    "language-swiglu-deep": (*_SWIGLU, *_PLAIN),
    "language-swiglu-least-squares-2": _collapsed(
        _SWIGLU, "language-swiglu-deep", "least_squares", 2, 0
    ),
}


def students(healing: float) -> Rows:
    """Returns the rows of students of the compact topology.

    Args:
      healing: time of a step of healing, over that of a student's step.
    """
    student = ("train.distill", "{language-healed-2}", "--epochs")
    return {
        "language-student-heal-steps": (*student, f"{_HEAL_EPOCHS:g}"),
        "language-student-heal-time": (*student, f"{_HEAL_EPOCHS * healing:.3f}"),
        "language-student-all-steps": (*student, f"{_EPOCHS + _HEAL_EPOCHS:g}"),
        "language-student-all-time": (*student, f"{(_EPOCHS + _HEAL_EPOCHS) * healing:.3f}"),
    }


def distillation(seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns the healed models and the students, and what a step of each takes.

    A step of healing with the deep model for a teacher takes what a student's step takes.
    """
    healed = ["language-healed-2", "language-taught-3e-3-2"]
    first = measured(SURGERY, healed, seeds=seeds, runs_dir=runs_dir)
    times = _times(runs_dir, seeds[0])
    rows = SURGERY | students(times["healing"] / times["student"])
    chosen = [*healed, *students(1.0)]
    found = first | measured(rows, chosen, seeds=seeds, runs_dir=runs_dir)
    return [_point(name, rows[name], found[name]) | {"step_seconds": times} for name in chosen]


def _times(runs_dir: Path, seed: int) -> dict[str, float]:
    """Returns seconds a step; measured once, as the lengths of runs depend on it."""
    path = runs_dir / "language-step-seconds.json"
    if not path.exists():
        path.write_text(json.dumps(step_seconds(runs_dir / f"language-healed-2-{seed}")))
    return json.loads(path.read_text())


def main(
    parts: tuple[Part, ...] = ("regulariser", "surgery", "distillation"),
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
            points = regulariser(seeds, runs_dir)
        elif part == "distillation":
            points = distillation(seeds, runs_dir)
        else:
            found = measured(SURGERY, list(SURGERY), seeds=seeds, runs_dir=runs_dir)
            points = [_point(name, SURGERY[name], found[name]) for name in SURGERY]
        headers = ("run", "validation loss", "test loss", "test perplexity", "parameters", "sites")
        table, config = Table(headers, [_cells(point) for point in points]), {"seeds": list(seeds)}
        publish(f"language-{part}", config, points, table, results_dir=results_dir)


def _loss(summary: Summary, split: str) -> float:
    return summary["compact"][split]["loss"]


def _point(name: str, arguments: tuple[str, ...], found: list[Summary]) -> dict[str, Any]:
    return {
        "run": name,
        "command": command(arguments),
        "evaluation": found[0]["evaluation"],
        "deep_parameters": found[0]["deep"]["parameters"],
        "parameters": [summary["compact"]["parameters"] for summary in found],
        "collapsed": [summary["collapsed"] for summary in found],
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
        " / ".join(map(str, counts)),
    )


if __name__ == "__main__":
    tyro.cli(main)
