"""Quality over all networks: one line a method, put together from what other benchmarks published.

`python -m benchmarks.quality`: reads benchmarks/results, runs nothing. Of every network the size
that its benchmark runs with all seeds. What healing takes is counted: all trained rows of a network
have as many steps in all, or nearly, and those that a teacher helps have its training besides.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, Table, publish
from benchmarks.training_runs import mean_and_deviation

METHODS = {
    "deep": "deep",
    "natural": "lcjax: slopes learned, as many as the data allows",
    "annealed": "lcjax: slopes annealed, the deep one teaching",
    "fitted": "lcjax: least squares, no training",
    "taught": "lcjax: least squares, healed, the deep one teaching",
    "pruned": "hidden units pruned by magnitude, healed alike",
    "low-rank": "low rank (SVD), healed alike",
    "removed": "MLPs removed, healed alike",
    "scratch": "the compact topology from scratch",
    "distilled": "the compact topology, distilled",
    "published": "published method, at its threshold",
    "published-fused": "published method, fused all the same",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and where its figures are.

    Attributes:
      name: of the column.
      file: name of the JSON of results.
      rows: names of its rows by the key of the method.
    """

    name: str
    file: str
    rows: Mapping[str, str]


def _small(name: str) -> dict[str, str]:
    return {method: f"{name}-small-{method}" for method in METHODS}


NETWORKS = (
    Network(
        "Fashion-MNIST MLP, 2 of 3 activations, %",
        "images",
        {
            "deep": "fashion-mlp-deep",
            "natural": "fashion-mlp",
            "annealed": "fashion-mlp-anneal-taught",
            "fitted": "fashion-mlp-least-squares-2",
            "taught": "fashion-mlp-fit-heal-taught",
            "pruned": "fashion-mlp-pruned",
            "low-rank": "fashion-mlp-low-rank",
            "scratch": "fashion-mlp-small",
            "distilled": "fashion-mlp-distilled",
            "published": "fashion-mlp-reference-1",
            "published-fused": "fashion-mlp-reference-1-exact-2",
        },
    ),
    Network("Fashion-MNIST Mixer, 2 of 4, %", "networks-fashion-mixer", _small("fashion-mixer")),
    Network("CIFAR-10 ViT, 2 of 4, %", "networks-cifar10-vit", _small("cifar10-vit")),
    Network(
        "CIFAR-10 Mixer, 2 of 4, %",
        "front",
        {
            "deep": "front-deep",
            "natural": "front-l1-0.01",
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
    Network(
        "SST-2 MiniLM, 3 of 6, %",
        "sentiment",
        {
            "deep": "sentiment-deep",
            "natural": "sentiment-natural",
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
    Network(
        "tiny_shakespeare GPT, 2 of 4, perplexity",
        "language-peers",
        {
            "deep": "language-deep-all-epochs",
            "natural": "language-natural-all-epochs",
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


def figures(network: Network, results_dir: Path) -> dict[str, dict[str, Any]]:
    """Returns, by the key of the method, test scores (%, or perplexity) and parameters, one a seed.

    Args:
      network: whose.
      results_dir: where its benchmark published; nothing comes of one that has not.
    """
    path = results_dir / f"{network.file}.json"
    if not path.exists():
        return {}
    results = json.loads(path.read_text())["results"]
    if isinstance(results, dict):
        points = {name: _of_runs(row["runs"]) for name, row in results.items()}
    else:
        points = {point.get("row", point.get("run")): _of_point(point) for point in results}
    return {method: points[row] for method, row in network.rows.items() if row in points}


def main(results_dir: Path = RESULTS) -> None:
    """Puts the table together, prints it and writes a JSON.

    Args:
      results_dir: where results are, and where this one is written.
    """
    found = {network.name: figures(network, results_dir) for network in NETWORKS}
    rows = [
        (title, *(_cell(of_methods.get(method)) for of_methods in found.values()))
        for method, title in METHODS.items()
    ]
    headers = ("method", *found)
    publish("quality", {"from": [network.file for network in NETWORKS]}, found,
            Table(headers, rows), results_dir=results_dir)  # fmt: skip


def _of_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = [run["compact"]["parameters"] - run.get("removed", 0) for run in runs]
    return {"scores": [100 * run["compact"]["test"]["accuracy"] for run in runs], "sizes": sizes}


def _of_point(point: dict[str, Any]) -> dict[str, Any]:
    if "accuracy" in point:
        scores = [100 * each for each in point["accuracy"]]
    else:
        scores = [each["perplexity"] for each in point["test"]]
    return {"scores": scores, "sizes": point["parameters"]}


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{mean_and_deviation(found['scores'])} ({statistics.mean(found['sizes']):,.0f})"


if __name__ == "__main__":
    tyro.cli(main)
