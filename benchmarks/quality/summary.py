"""Quality over all networks: one line per method, from the results of other benchmarks.

`python -m benchmarks summary`: reads benchmarks/results and runs nothing. Every network is shown at
the size that its benchmark runs with all seeds. All trained rows of a network have the same number
of steps in total, or nearly, healing included; the training of a teacher is extra.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.training_runs import mean_and_deviation

METHODS = {
    "deep": "deep",
    "penalty": "lcjax: slopes learned, as many as the data allows",
    "annealed": "lcjax: slopes annealed, distilled from the deep model",
    "fitted": "lcjax: least squares, no training",
    "taught": "lcjax: least squares, healed, distilled from the deep model",
    "pruned": "hidden units pruned by magnitude, same healing",
    "low-rank": "low rank (SVD), same healing",
    "removed": "MLPs dropped, same healing",
    "scratch": "compact topology from scratch",
    "distilled": "compact topology, distilled",
    "published": "published method, at its threshold",
    "published-fused": "published method, fused regardless of gap",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """The results of one network.

    Attributes:
      title: of the column.
      file: name of the JSON of results.
      rows: names of its runs by the key of the method.
    """

    title: str
    file: str
    rows: Mapping[str, str]


def _small(name: str) -> dict[str, str]:
    return {method: f"{name}-small-{method}" for method in METHODS}


SOURCES = (
    Source(
        "Fashion-MNIST MLP, 2 of 3 activations, %",
        "images",
        {
            "deep": "fashion-mlp-deep",
            "penalty": "fashion-mlp",
            "annealed": "fashion-mlp-anneal-taught",
            "fitted": "fashion-mlp-least-squares-2",
            "taught": "fashion-mlp-fit-heal-taught",
            "pruned": "fashion-mlp-pruned",
            "low-rank": "fashion-mlp-low-rank",
            "scratch": "fashion-mlp-small",
            "distilled": "fashion-mlp-distilled",
            "published": "fashion-mlp-published-1",
            "published-fused": "fashion-mlp-published-1-exact-2",
        },
    ),
    Source(
        "Fashion-MNIST Mixer, 2 of 4, %",
        "small_networks-fashion-mixer",
        _small("fashion-mixer"),
    ),
    Source("CIFAR-10 ViT, 2 of 4, %", "small_networks-cifar10-vit", _small("cifar10-vit")),
    Source(
        "CIFAR-10 Mixer, 2 of 4, %",
        "cifar10_mixer",
        {
            "deep": "front-deep",
            "penalty": "front-l1-0.01",
            "annealed": "front-anneal-taught-2",
            "fitted": "front-least-squares-2",
            "taught": "front-heal-taught-2",
            "pruned": "front-pruned-2",
            "low-rank": "front-low-rank-2",
            "scratch": "front-scratch-2",
            "distilled": "front-distilled-2",
            "published": "front-l2-1",
            "published-fused": "front-l2-1-exact-2",
        },
    ),
    Source(
        "SST-2 MiniLM, 3 of 6, %",
        "sentiment",
        {
            "deep": "sentiment-deep",
            "penalty": "sentiment-penalty",
            "fitted": "sentiment-least-squares-3",
            "taught": "sentiment-healed-3",
            "pruned": "sentiment-pruned-3",
            "low-rank": "sentiment-low-rank-3",
            "removed": "sentiment-removed-3",
            "scratch": "sentiment-scratch-3",
            "distilled": "sentiment-distilled-3",
            "published": "sentiment-published-1",
            "published-fused": "sentiment-published-1-exact-3",
        },
    ),
    Source(
        "tiny_shakespeare GPT, 2 of 4, perplexity",
        "language-baselines",
        {
            "deep": "language-deep-all-epochs",
            "penalty": "language-penalty-all-epochs",
            "annealed": "language-annealed-taught-2",
            "fitted": "language-least-squares-2",
            "taught": "language-taught-3e-3-2",
            "pruned": "language-pruned-2",
            "low-rank": "language-low-rank-2",
            "removed": "language-removed-2",
            "scratch": "language-scratch-2",
            "distilled": "language-student-all-steps",
            "published": "language-published-1",
            "published-fused": "language-published-1-exact-2",
        },
    ),
)  # fmt: skip


def figures(source: Source, results_dir: Path) -> dict[str, dict[str, Any]]:
    """Returns, by the key of the method, test scores (%, or perplexity) and sizes, one per seed.

    Args:
      source: of the figures.
      results_dir: directory of results; without a result of the source the figures are empty.
    """
    path = results_dir / f"{source.file}.json"
    if not path.exists():
        return {}
    results = json.loads(path.read_text())["results"]
    if isinstance(results, dict):
        points = {name: _of_runs(row["runs"]) for name, row in results.items()}
    else:
        points = {point.get("row", point.get("run")): _of_point(point) for point in results}
    return {method: points[row] for method, row in source.rows.items() if row in points}


def main(results_dir: Path = RESULTS) -> None:
    """Reads the results, prints the table and writes a JSON.

    Args:
      results_dir: directory of results, read and written.
    """
    found = {source.title: figures(source, results_dir) for source in SOURCES}
    columns = [Column("method", METHODS.get), *(_column(*each) for each in found.items())]
    config = {"from": [source.file for source in SOURCES]}
    publish("summary", config, found, tabulate(columns, METHODS), results_dir=results_dir)


def _of_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = [run["compact"]["parameters"] - run.get("removed", 0) for run in runs]
    return {"scores": [100 * run["compact"]["test"]["accuracy"] for run in runs], "sizes": sizes}


def _of_point(point: dict[str, Any]) -> dict[str, Any]:
    if "accuracy" in point:
        scores = [100 * each for each in point["accuracy"]]
    else:
        scores = [each["perplexity"] for each in point["test"]]
    return {"scores": scores, "sizes": point["parameters"]}


def _column(title: str, found: dict[str, dict[str, Any]]) -> Column:
    """Returns the column of one network, over the keys of methods."""

    def cell(method: str) -> str | None:
        if method not in found:
            return None
        of = found[method]
        return f"{mean_and_deviation(of['scores'])} ({statistics.mean(of['sizes']):,.0f})"

    return Column(title, cell)


if __name__ == "__main__":
    tyro.cli(main)
