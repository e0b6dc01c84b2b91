"""Accuracy against parameters on CIFAR-10: ways to a compact Mixer, all in equally many steps.

`python -m benchmarks.front`: resumes where it was stopped; the runs stay in runs/benchmark. The
channel MLPs of a small Mixer are what is collapsed, one to four of them. Every way has the
same number of training steps in all; what needs no training starts from the deep network.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tyro

from benchmarks.front_picture import draw
from benchmarks.peers import PEERS
from benchmarks.record import RESULTS
from benchmarks.ways import Way, report

PEERED = 2  # the size at which peers stand beside ours
REPEATED = (2, 4)  # sizes that are run with every seed; the others with the first
L1_STRENGTHS = ("0.01", "0.03", "0.1")
L2_STRENGTHS = ("1", "10")
MIXER = (
    *("cifar10-mixer", "--patch-size", "8", "--depth", "4", "--width", "96"),
    *("--token-hidden", "32", "--channel-hidden", "384", "--learning-rate", "2e-3"),
    *("--where", "*channels*"),
)
_TRAINED = (*MIXER, "--epochs", "4")
_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")


def ways() -> Iterator[Way]:
    """Yields all ways; those that others start from come first."""
    yield Way("deep", "front-deep", (*_TRAINED, *_PLAIN))
    yield Way("deep, one epoch less", "front-short", (*MIXER, "--epochs", "3", *_PLAIN))
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
    way = partial(Way, repeated=k in REPEATED)
    for fit in ("exact", "moments", "least_squares"):
        row = f"front-{fit.replace('_', '-')}-{k}"
        yield way(f"{fit.replace('_', ' ')}, no training", row, _surgery("front-deep", fit, k))
    for each in L1_STRENGTHS:
        asked = _surgery(f"front-l1-{each}", "least_squares", k)
        yield way(f"lcjax: L1 {each} + least squares", f"front-l1-{each}-fit-{k}", asked)
    healed = _surgery("front-short", "least_squares", k, heal_epochs=1)
    yield way("lcjax: least squares, one epoch", f"front-heal-{k}", healed)
    taught = (*healed, "--deep-teacher")
    yield way("lcjax: the same, the deep one teaching", f"front-heal-taught-{k}", taught)
    for peer, method in PEERS.items() if k == PEERED else ():
        asked = (f"benchmarks.{peer}", f"{{front-heal-{k}}}")
        yield way(f"{method}, one epoch", f"front-{peer.replace('_', '-')}-{k}", asked)
    annealed = (*_TRAINED, "--protocol", "anneal", "--last", str(k))
    yield Way("lcjax: annealed", f"front-anneal-{k}", annealed, repeated=False)
    annealed = (*annealed, "--teacher", "{front-deep}")
    yield way("lcjax: annealed, the deep one teaching", f"front-anneal-taught-{k}", annealed)
    for each in L2_STRENGTHS:
        asked = (*_surgery(f"front-l2-{each}", "exact", k), "--activation", "relu")
        yield way(f"published, λ = {each}", f"front-l2-{each}-exact-{k}", asked)
    scratch = (*_TRAINED, *_PLAIN, "--collapsed-from", f"{{front-least-squares-{k}}}")
    yield way("from scratch", f"front-scratch-{k}", scratch)
    yield way("distilled", f"front-distilled-{k}", (*scratch, "--teacher", "{front-deep}"))


def _surgery(deep: str, fit: str, count: int, *, heal_epochs: int = 0) -> tuple[str, ...]:
    """Returns the arguments that collapse the sites of another row's network that cost least."""
    start = (*_TRAINED, "--protocol", "fit-heal", "--from", f"{{{deep}}}", "--fit", fit)
    return (*start, "--count", str(count), "--heal-epochs", str(heal_epochs))


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table, writes a JSON and a picture.

    Args:
      seeds: of the runs; one and three collapsed sites take the first alone.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    points = report("front", ways(), seeds=seeds, runs_dir=runs_dir, results_dir=results_dir)
    print(draw(points, results_dir / "front.png"))


if __name__ == "__main__":
    tyro.cli(main)
