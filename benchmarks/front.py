"""Accuracy against parameters on CIFAR-10: ways to a compact Mixer, all in equally many steps.

`python -m benchmarks.front`: resumes where it was stopped; the runs stay in runs/benchmark. The
channel MLPs of a small Mixer are what is collapsed, one to four of them. Every way has the
same number of training steps in all; what needs no training starts from the deep network.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from benchmarks.front_picture import draw
from benchmarks.record import RESULTS, write
from benchmarks.training_runs import Summary, command, mean_and_deviation, measured
from lcjax.table import render

REPEATED = (2, 4)  # sizes that are run with every seed; the others with the first
L1_STRENGTHS = ("0.01", "0.03", "0.1")
L2_STRENGTHS = ("1", "10")
_MIXER = (
    *("cifar10-mixer", "--patch-size", "8", "--depth", "4", "--width", "96"),
    *("--token-hidden", "32", "--channel-hidden", "384", "--learning-rate", "2e-3"),
    *("--where", "*channels*"),
)
_TRAINED = (*_MIXER, "--epochs", "4")
_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to a compact model.

    Attributes:
      method: what it is called; lcjax's own begin with its name.
      row: name of its runs.
      arguments: of train.image.
      size: how many sites it collapses; None where the network chooses, or none is.
    """

    method: str
    row: str
    arguments: tuple[str, ...]
    size: int | None = None


def ways() -> Iterator[Way]:
    """Yields all ways; those that others start from come first."""
    yield Way("deep", "front-deep", (*_TRAINED, *_PLAIN))
    yield Way("deep, one epoch less", "front-short", (*_MIXER, "--epochs", "3", *_PLAIN))
    for strength in L1_STRENGTHS:
        asked = (*_TRAINED, "--strength", strength)
        yield Way("lcjax: L1 alone", f"front-l1-{strength}", asked)
    for strength in L2_STRENGTHS:
        asked = (*_TRAINED, "--protocol", "reference", "--strength", strength)
        yield Way(f"published, λ = {strength}, its threshold", f"front-l2-{strength}", asked)
    for size in (1, 2, 3, 4):
        yield from _ways_to(size)


def _ways_to(k: int) -> Iterator[Way]:
    """Yields the ways to k collapsed sites."""
    for fit in ("exact", "moments", "least_squares"):
        row = f"front-{fit.replace('_', '-')}-{k}"
        yield Way(f"{fit.replace('_', ' ')}, no training", row, _surgery("front-deep", fit, k), k)
    for each in L1_STRENGTHS:
        asked = _surgery(f"front-l1-{each}", "least_squares", k)
        yield Way(f"lcjax: L1 {each} + least squares", f"front-l1-{each}-fit-{k}", asked, k)
    healed = _surgery("front-short", "least_squares", k, heal_epochs=1)
    yield Way("lcjax: least squares, one epoch", f"front-heal-{k}", healed, k)
    taught = (*healed, "--deep-teacher")
    yield Way("lcjax: the same, the deep one teaching", f"front-heal-taught-{k}", taught, k)
    for each in L2_STRENGTHS:
        asked = (*_surgery(f"front-l2-{each}", "exact", k), "--activation", "relu")
        yield Way(f"published, λ = {each}", f"front-l2-{each}-exact-{k}", asked, k)
    scratch = (*_TRAINED, *_PLAIN, "--collapsed-from", f"{{front-least-squares-{k}}}")
    yield Way("from scratch", f"front-scratch-{k}", scratch, k)
    distilled = (*scratch, "--teacher", "{front-deep}")
    yield Way("distilled", f"front-distilled-{k}", distilled, k)


def _surgery(deep: str, fit: str, count: int, *, heal_epochs: int = 0) -> tuple[str, ...]:
    """Returns the arguments that collapse the sites of another row's network that cost least."""
    start = (*_TRAINED, "--protocol", "fit-heal", "--from", f"{{{deep}}}", "--fit", fit)
    return (*start, "--count", str(count), "--heal-epochs", str(heal_epochs))


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
) -> None:
    """Runs what is not there yet; prints a table, writes a JSON and a picture.

    Args:
      seeds: of the runs; one and three collapsed sites take the first alone.
      runs_dir: where the runs are kept.
    """
    rows = {way.row: way.arguments for way in ways()}
    points: list[dict[str, Any]] = []
    for way in ways():
        own = seeds if way.size in (None, *REPEATED) else seeds[:1]
        found = measured(rows, [way.row], seeds=own, runs_dir=runs_dir)[way.row]
        points.append(_point(way, found))
    headers = ("method", "parameters", "collapsed", "test accuracy, %", "seeds")
    print(render(headers, [_cells(point) for point in points]))
    print(write("front", {"seeds": list(seeds)}, points))
    print(draw(points, RESULTS / "front.png"))


def _point(way: Way, found: list[Summary]) -> dict[str, Any]:
    return {
        "method": way.method,
        "command": command(way.arguments),
        "parameters": [summary["compact"]["parameters"] for summary in found],
        "collapsed": [summary["collapsed"] for summary in found],
        "accuracy": [summary["compact"]["test"]["accuracy"] for summary in found],
    }


def _cells(point: dict[str, Any]) -> tuple[str, ...]:
    accuracy = mean_and_deviation([100 * each for each in point["accuracy"]])
    sizes = sorted(set(point["parameters"]))
    counts = sorted({len(each) for each in point["collapsed"]})
    return (
        point["method"],
        " / ".join(f"{size:,}" for size in sizes),
        " / ".join(map(str, counts)),
        accuracy,
        str(len(point["accuracy"])),
    )


if __name__ == "__main__":
    tyro.cli(main)
