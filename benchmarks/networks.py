"""A small Mixer on Fashion-MNIST and a small ViT on CIFAR-10: ways to two MLPs of four less.

`python -m benchmarks.networks`: resumes where it was stopped; the runs stay in runs/benchmark. The
Mixer's channel MLPs and the ViT's MLPs are what goes. Every way has the same number of training
steps in all; what needs no training starts from the deep network, what is healed for an epoch from
one that is an epoch short, which teaches it where there is a teacher. The teacher of annealed and
distilled ones is the whole deep network, whose steps come besides.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

from benchmarks.peers import PEERS
from benchmarks.record import RESULTS
from benchmarks.ways import Way, report
from benchmarks.ways_picture import draw

COUNT, EPOCHS = 2, 3
NETWORKS = {
    "fashion-mixer": (
        *("fashion-mixer", "--patch-size", "7", "--depth", "4", "--width", "64"),
        *("--token-hidden", "32", "--channel-hidden", "256", "--learning-rate", "2e-3"),
        *("--where", "*channels*"),
    ),
    "cifar10-vit": (
        *("cifar10-vit", "--patch-size", "8", "--depth", "4", "--width", "64"),
        *("--num-heads", "4", "--mlp-hidden", "256"),
    ),
}
_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")


def ways(name: str) -> Iterator[Way]:
    """Yields the ways for one network; those that others start from come first."""
    network = NETWORKS[name]
    whole, short = ((*network, "--epochs", str(each)) for each in (EPOCHS, EPOCHS - 1))

    def way(method: str, row: str, *arguments: str) -> Way:
        return Way(method, f"{name}-small-{row}", arguments)

    def row(of: str) -> str:
        return f"{{{name}-small-{of}}}"

    def surgery(deep: str, fit: str, heal_epochs: int) -> tuple[str, ...]:
        start = (*whole, "--protocol", "fit-heal", "--from", row(deep), "--fit", fit)
        return (*start, "--count", str(COUNT), "--heal-epochs", str(heal_epochs))

    yield way("deep", "deep", *whole, *_PLAIN)
    yield way("deep, one epoch less", "short", *short, *_PLAIN)
    yield way("lcjax: L1 as the preset has it, the default", "natural", *whole)
    taught = ("--teacher", row("deep"))
    annealed = (*whole, "--protocol", "anneal", "--last", str(COUNT), *taught)
    yield way("lcjax: annealed, the deep one teaching", "annealed", *annealed)
    yield way("lcjax: least squares, no training", "fitted", *surgery("deep", "least_squares", 0))
    healed = surgery("short", "least_squares", 1)
    yield way("lcjax: least squares, one epoch", "healed", *healed)
    yield way("lcjax: the same, the short one teaching", "taught", *healed, "--deep-teacher")
    for peer, method in PEERS.items():
        asked = (f"benchmarks.{peer}", row("healed"))
        yield way(f"{method}, healed alike", peer.replace("_", "-"), *asked)
    yield way("MLPs removed, healed alike", "removed", "benchmarks.removed", row("healed"))
    scratch = (*whole, *_PLAIN, "--collapsed-from", row("fitted"))
    yield way("the compact topology from scratch", "scratch", *scratch)
    yield way("the same, distilled", "distilled", *scratch, *taught)
    reference = (*whole, "--protocol", "reference", "--strength", "1")
    yield way("published, λ = 1, its threshold", "published", *reference)
    fused = (*surgery("published", "exact", 0), "--activation", "relu")
    yield way("published, λ = 1, fused all the same", "published-fused", *fused)


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; writes a table, a JSON and a picture a network.

    Args:
      networks: which of them.
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    for name in networks:
        points = report(
            f"networks-{name}", ways(name), seeds=seeds, runs_dir=runs_dir, results_dir=results_dir
        )
        print(draw(points, results_dir / f"networks-{name}.png", about=f"a small {name}"))


if __name__ == "__main__":
    tyro.cli(main)
