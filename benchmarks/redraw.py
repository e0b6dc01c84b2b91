"""Draws the pictures of the benchmarks again from the JSON of their results.

`python -m benchmarks.redraw`: takes seconds and measures nothing. The picture of `quality.cubic`
shows curves that its JSON leaves out: `python -m benchmarks cubic` draws it.
"""

import json
from pathlib import Path
from typing import Any

import tyro

from benchmarks.harness.plots import (
    plot_methods,
    plot_pareto_front,
    plot_sweep,
    plot_time_to_accuracy,
)
from benchmarks.harness.publish import RESULTS
from benchmarks.quality.cifar10_mixer import NETWORK as MIXER
from benchmarks.quality.small_networks import NETWORKS
from benchmarks.quality.sweeps import SWEEPS
from benchmarks.quality.time_to_accuracy import of_least_size


def main(results_dir: Path = RESULTS) -> None:
    """Writes a PNG next to each JSON that has what a picture shows.

    Args:
      results_dir: directory of results.
    """
    points, path = _read(results_dir, "cifar10_mixer"), results_dir / "cifar10_mixer.png"
    print(plot_pareto_front(points, path, network=MIXER))
    for name in NETWORKS:
        stem = f"small_networks-{name}"
        points = _read(results_dir, stem)
        print(plot_methods(points, results_dir / f"{stem}.png", network=f"A small {name}"))
    for name, points in _read(results_dir, "sweeps").items():
        sweep, path = SWEEPS[name], results_dir / f"sweep-{name}.png"
        print(plot_sweep(points, path, label=sweep.label, default=sweep.default))
    points = of_least_size(_read(results_dir, "time_to_accuracy"))
    print(plot_time_to_accuracy(points, results_dir / "time_to_accuracy.png"))


def _read(results_dir: Path, name: str) -> Any:
    return json.loads((results_dir / f"{name}.json").read_text())["results"]


if __name__ == "__main__":
    tyro.cli(main)
