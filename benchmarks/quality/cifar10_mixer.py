"""Accuracy against parameters on CIFAR-10: methods for a compact Mixer, all in equally many steps.

`python -m benchmarks cifar10_mixer`: resumes an interrupted benchmark; runs are kept. One to four
channel MLPs of a small Mixer collapse. All methods take the same number of training steps in total;
methods without training start from the deep network.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tyro

from benchmarks.baselines.base import BASELINES
from benchmarks.deep_runs import CIFAR10_MIXER_DEEP, PLAIN
from benchmarks.harness.methods import Method, report
from benchmarks.harness.plots import plot_pareto_front
from benchmarks.harness.publish import RESULTS
from benchmarks.harness.training_runs import Arguments, RunDirectory
from benchmarks.networks import CIFAR10_MIXER

NETWORK = "A small MLP-Mixer on CIFAR-10"
BASELINE_SIZE = 2  # the number of collapsed sites at which baselines are compared
EVERY_SEED = (2, 4)  # numbers of collapsed sites that run with every seed
L1_STRENGTHS = ("0.01", "0.03", "0.1")
L2_STRENGTHS = ("1", "10")
_MIXER = ("train.image", *CIFAR10_MIXER)
_TRAINED = (*_MIXER, "--epochs", "4")
_DEEP = RunDirectory(CIFAR10_MIXER_DEEP.name)


def methods() -> Iterator[Method]:
    """Yields all methods; those that others start from come first."""
    yield CIFAR10_MIXER_DEEP
    yield Method("deep, one epoch less", "front-short", (*_MIXER, "--epochs", "3", *PLAIN))
    for strength in L1_STRENGTHS:
        arguments = (*_TRAINED, "--strength", strength)
        yield Method("lcjax: L1 alone", f"front-l1-{strength}", arguments)
    for strength in L2_STRENGTHS:
        arguments = (*_TRAINED, "--protocol", "paper", "--strength", strength)
        yield Method(f"published, λ = {strength}, its threshold", f"front-l2-{strength}", arguments)
    for size in (1, 2, 3, 4):
        yield from _methods_for(size)


def _methods_for(k: int) -> Iterator[Method]:
    """Yields the methods that collapse k sites."""
    method = partial(Method, every_seed=k in EVERY_SEED)
    for fit in ("exact", "per_unit", "least_squares"):
        run = f"front-{fit.replace('_', '-')}-{k}"
        yield method(f"{fit.replace('_', ' ')}, no training", run, _surgery(_DEEP.run, fit, k))
    for each in L1_STRENGTHS:
        arguments = _surgery(f"front-l1-{each}", "least_squares", k)
        yield method(f"lcjax: L1 {each} + least squares", f"front-l1-{each}-fit-{k}", arguments)
    healed = _surgery("front-short", "least_squares", k, heal_epochs=1)
    yield method("lcjax: least squares, one epoch", f"front-heal-{k}", healed)
    distilled = (*healed, "--deep-teacher")
    yield method(
        "lcjax: the same, distilled from its deep model", f"front-heal-taught-{k}", distilled
    )
    for run, (module, title) in BASELINES.items() if k == BASELINE_SIZE else ():
        arguments = (module, RunDirectory(f"front-heal-{k}"))
        yield method(f"{title}, one epoch", f"front-{run}-{k}", arguments)
    annealed = (*_TRAINED, "--protocol", "anneal", "--last", str(k))
    yield Method("lcjax: annealed", f"front-anneal-{k}", annealed, every_seed=False)
    annealed = (*annealed, "--teacher", _DEEP)
    yield method(
        "lcjax: annealed, distilled from the deep model", f"front-anneal-taught-{k}", annealed
    )
    for each in L2_STRENGTHS:
        arguments = (*_surgery(f"front-l2-{each}", "exact", k), "--activation", "relu")
        yield method(f"published, λ = {each}", f"front-l2-{each}-exact-{k}", arguments)
    fitted = RunDirectory(f"front-least-squares-{k}")
    scratch = (*_TRAINED, *PLAIN, "--collapsed-from", fitted)
    yield method("from scratch", f"front-scratch-{k}", scratch)
    yield method("distilled", f"front-distilled-{k}", (*scratch, "--teacher", _DEEP))


def _surgery(deep: str, fit: str, count: int, *, heal_epochs: int = 0) -> Arguments:
    """Returns arguments that collapse the sites of another run that cost least."""
    start = (*_TRAINED, "--protocol", "fit-heal", "--from", RunDirectory(deep), "--fit", fit)
    return (*start, "--count", str(count), "--heal-epochs", str(heal_epochs))


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints a table, writes a JSON and a plot.

    Args:
      seeds: of the runs; one and three collapsed sites run with the first only.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    points = report(
        "cifar10_mixer", methods(), seeds=seeds, runs_dir=runs_dir, results_dir=results_dir
    )
    print(plot_pareto_front(points, results_dir / "cifar10_mixer.png", network=NETWORK))


if __name__ == "__main__":
    tyro.cli(main)
