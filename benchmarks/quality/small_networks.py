"""A small Mixer on Fashion-MNIST and a small ViT on CIFAR-10, two of four MLPs collapsed.

`python -m benchmarks small_networks`: resumes an interrupted benchmark; runs are kept. The Mixer's
channel MLPs and the ViT's MLPs collapse. All methods take the same number of training steps in
total: methods without training start from the deep network, methods with one epoch of healing from
a deep network with one epoch less, which is also the teacher. The teacher of annealed and distilled
models is the deep network; its steps are extra.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

from benchmarks.baselines.base import BASELINES, DROP
from benchmarks.deep_runs import CIFAR10_VIT_DEEP, FASHION_MIXER_DEEP, PLAIN
from benchmarks.harness.methods import Method, report
from benchmarks.harness.plots import plot_methods
from benchmarks.harness.publish import RESULTS
from benchmarks.harness.training_runs import Arguments, RunDirectory
from benchmarks.networks import CIFAR10_VIT, FASHION_MIXER

COUNT, EPOCHS = 2, 3
NETWORKS = {
    "fashion-mixer": (FASHION_MIXER, FASHION_MIXER_DEEP),
    "cifar10-vit": (CIFAR10_VIT, CIFAR10_VIT_DEEP),
}


def methods(name: str) -> Iterator[Method]:
    """Yields the methods for one network; those that others start from come first."""
    flags, deep = NETWORKS[name]
    network = ("train.image", *flags)
    whole, short = ((*network, "--epochs", str(each)) for each in (EPOCHS, EPOCHS - 1))

    def method(title: str, run: str, *arguments: str | RunDirectory) -> Method:
        return Method(title, f"{name}-small-{run}", arguments)

    def directory(run: str) -> RunDirectory:
        return RunDirectory(f"{name}-small-{run}")

    def surgery(deep: str, fit: str, heal_epochs: int) -> Arguments:
        start = (*whole, "--protocol", "fit-heal", "--from", directory(deep), "--fit", fit)
        return (*start, "--count", str(COUNT), "--heal-epochs", str(heal_epochs))

    yield deep
    yield method("deep, one epoch less", "short", *short, *PLAIN)
    yield method("lcjax: L1 of the preset, the default", "penalty", *whole)
    distilled = ("--teacher", directory("deep"))
    annealed = (*whole, "--protocol", "anneal", "--last", str(COUNT), *distilled)
    yield method("lcjax: annealed, distilled from the deep model", "annealed", *annealed)
    yield method(
        "lcjax: least squares, no training", "fitted", *surgery("deep", "least_squares", 0)
    )
    healed = surgery("short", "least_squares", 1)
    yield method("lcjax: least squares, one epoch", "healed", *healed)
    yield method(
        "lcjax: the same, distilled from its deep model", "taught", *healed, "--deep-teacher"
    )
    for run, (module, title) in BASELINES.items():
        yield method(f"{title}, same healing", run, module, directory("healed"))
    yield method("MLPs dropped, same healing", "removed", DROP, directory("healed"))
    scratch = (*whole, *PLAIN, "--collapsed-from", directory("fitted"))
    yield method("compact topology from scratch", "scratch", *scratch)
    yield method("the same, distilled", "distilled", *scratch, *distilled)
    published = (*whole, "--protocol", "paper", "--strength", "1")
    yield method("published, λ = 1, its threshold", "published", *published)
    fused = (*surgery("published", "exact", 0), "--activation", "relu")
    yield method("published, λ = 1, fused regardless of gap", "published-fused", *fused)


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; writes a table, a JSON and a plot per network.

    Args:
      networks: names of networks.
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    for name in networks:
        points = report(
            f"small_networks-{name}",
            methods(name),
            seeds=seeds,
            runs_dir=runs_dir,
            results_dir=results_dir,
        )
        path = results_dir / f"small_networks-{name}.png"
        print(plot_methods(points, path, network=f"A small {name}"))


if __name__ == "__main__":
    tyro.cli(main)
