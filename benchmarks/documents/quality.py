"""Tables of what networks lose: accuracy or perplexity of each method at its size."""

import statistics
from typing import Any

from benchmarks.documents.results import (
    DASH,
    by_key,
    count,
    ratio,
    results,
    shown_method,
    with_deviation,
)
from benchmarks.harness.publish import Table

NETWORKS = {
    "Fashion-MNIST MLP, 2 of 3 activations, %": ("fashion-mlp", "Fashion-MNIST MLP"),
    "Fashion-MNIST Mixer, 2 of 4, %": ("fashion-mixer", "Fashion-MNIST Mixer"),
    "CIFAR-10 ViT, 2 of 4, %": ("cifar10-vit", "CIFAR-10 ViT"),
    "CIFAR-10 Mixer, 2 of 4, %": ("cifar10-mixer", "CIFAR-10 Mixer"),
    "SST-2 MiniLM, 3 of 6, %": ("sst2-minilm", "SST-2 MiniLM"),
    "tiny_shakespeare GPT, 2 of 4, perplexity": ("shakespeare-gpt", "tiny_shakespeare GPT"),
}
OURS = {
    "penalty": "learned slopes",
    "annealed": "annealed slopes, with a teacher",
    "fitted": "least squares, no training",
    "taught": "least squares, then healing with a teacher",
}
OTHERS = {
    "pruned": "hidden units pruned by magnitude, same healing",
    "low-rank": "low rank (SVD), same healing",
    "removed": "MLPs removed, same healing",
    "scratch": "compact network from scratch",
    "distilled": "compact network, distilled",
    "published": "published method, at its own threshold",
    "published-fused": "published method, fused in any case",
}
_SIZE_TOLERANCE = 1.01  # of parameters: ranks and units are whole numbers


def overview(pages: str) -> Table:
    """Returns one row a network: deep, best of lcjax, best of the others, size and time.

    Args:
      pages: where the recipes are, for links; empty for none.
    """
    rows = []
    for title, (page, name) in NETWORKS.items():
        found = results("summary")[title]
        lower = title.endswith("perplexity")
        limit = _SIZE_TOLERANCE * statistics.mean(found["fitted"]["sizes"])
        ours, others = (
            _best({key: found[key] for key in names if key in found}, limit, lower=lower)
            for names in (OURS, OTHERS)
        )
        shown = f"[{name}]({pages}{page}.md)" if pages else name
        time = _inference(name)["lcjax"]
        rows.append(
            (
                shown + (" (perplexity)" if lower else ""),
                with_deviation(found["deep"]["scores"]),
                f"**{with_deviation(found[ours]['scores'])}** {_SHORT[ours]}",
                f"{with_deviation(found[others]['scores'])} {_SHORT[others]}",
                f"{count(found['deep']['sizes'])} → {count(found[ours]['sizes'])}",
                f"{_large_batch(time)['time_ratio']['of_medians']:.2f}",
            )
        )
    return Table(("network", "deep", "lcjax", "best other method", "parameters", "time"), rows)


_SHORT = {
    "penalty": "(learned)",
    "annealed": "(annealed, teacher)",
    "fitted": "(fitted)",
    "taught": "(fitted, healed)",
    "pruned": "(pruned)",
    "low-rank": "(low rank)",
    "removed": "(removed)",
    "scratch": "(from scratch)",
    "distilled": "(distilled)",
    "published": "(published)",
    "published-fused": "(published)",
}


def _best(found: dict[str, Any], limit: float, *, lower: bool) -> str:
    """Returns the key of the best mean score among those of at most a size."""
    means = {
        key: statistics.mean(entry["scores"])
        for key, entry in found.items()
        if statistics.mean(entry["sizes"]) <= limit
    }
    return (min if lower else max)(means, key=lambda key: means[key])


def comparison() -> Table:
    """Returns every method on every network, with the sizes of its models."""
    names = {"deep": "deep", **OURS, **OTHERS}
    rows = []
    for key, name in names.items():
        shown = f"**lcjax: {name}**" if key in OURS else name
        row = [shown]
        for title in NETWORKS:
            entry = results("summary")[title].get(key)
            row.append(
                f"{with_deviation(entry['scores'])} ({count(entry['sizes'])})" if entry else DASH
            )
        rows.append(row)
    headers = [f"{name}{_unit(title)}" for title, (_, name) in NETWORKS.items()]
    return Table(("method", *headers), rows)


def _unit(title: str) -> str:
    return ", perplexity" if title.endswith("perplexity") else ", %"


def network(page: str) -> Table:
    """Returns the methods of one network with what each leaves and costs.

    Args:
      page: name of its recipe.
    """
    title = next(title for title, (key, _) in NETWORKS.items() if key == page)
    found = results("summary")[title]
    rows = []
    for key, name in {"deep": "deep", **OURS, **OTHERS}.items():
        if key in found:
            shown = f"**lcjax: {name}**" if key in OURS else name
            entry = found[key]
            size = count(entry["sizes"])
            rows.append((shown, size, with_deviation(entry["scores"])))
    score = "test perplexity" if title.endswith("perplexity") else "test accuracy, %"
    return Table(("method", "parameters", score), rows)


def planned_minilm() -> Table:
    """Returns MiniLM at the size of one matrix for each FFN and below, planned and healed."""
    rows = [
        (
            shown_method(point["method"]),
            count(point["parameters"]),
            with_deviation([100 * value for value in point["accuracy"]]),
        )
        for point in results("sentiment-plan")
    ]
    return Table(("method", "parameters", "test accuracy, %"), rows)


def runtime() -> Table:
    """Returns FLOPs and time of each form over the deep form's, for batches that fill the cores."""
    names = list(by_key(results("inference"), "network"))
    rows = [("FLOPs, lcjax", *(_cell(name, "lcjax", "flops_ratio") for name in names))]
    for form in ("lcjax", "hidden units pruned", "low rank", "MLPs dropped"):
        shown = "**time, lcjax**" if form == "lcjax" else f"time, {form}"
        rows.append((shown, *(_cell(name, form, "time_ratio") for name in names)))
    return Table(("", *names), rows)


def _cell(name: str, form: str, key: str) -> str:
    entry = _inference(name).get(form)
    if entry is None:
        return DASH
    value = _large_batch(entry)[key]
    return f"{value['of_medians'] if isinstance(value, dict) else value:.2f}"


def _inference(name: str) -> dict[str, dict[str, Any]]:
    return {row["form"]: row for row in results("inference") if row["network"] == name}


def _large_batch(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["batches"][max(entry["batches"], key=int)]


def sizes() -> Table:
    """Returns the methods on the CIFAR-10 Mixer by the number of its collapsed MLPs."""
    points = [point for point in results("cifar10_mixer") if point["method"] != "deep"]
    methods = dict.fromkeys(point["method"] for point in points)
    rows = []
    for method in methods:
        row = [shown_method(method)]
        for number in (1, 2, 3, 4):
            cells = [
                with_deviation([100 * each for each in point["accuracy"]])
                for point in points
                if point["method"] == method and _collapsed(point) == number
            ]
            row.append(cells[0] if cells else DASH)
        if any(cell != DASH for cell in row[1:]):
            rows.append(row)
    return Table(("method", *(f"{number} of 4" for number in (1, 2, 3, 4))), rows)


_MIXER_SIZES = {257_450: 1, 192_554: 2, 127_658: 3, 62_762: 4}


def _collapsed(point: dict[str, Any]) -> int | None:
    size = statistics.mean(point["parameters"])
    near = min(_MIXER_SIZES, key=lambda other: abs(other - size))
    return _MIXER_SIZES[near] if abs(near - size) < 0.01 * near else None


def language() -> Table:
    """Returns what collapsing two of four FFNs of the decoder costs."""
    names = {
        "language-deep": "deep, three epochs",
        "language-more-3e-3": "deep, one epoch more",
        "language-exact-2": "as if linear",
        "language-per-unit-2": "per unit, no training",
        "language-least-squares-2": "least squares, no training",
        "language-healed-2": "least squares, one epoch of healing",
        "language-taught-3e-3-2": "the same with the deep model as teacher",
        "language-taught-four-epochs-2": "the same, four epochs",
        "language-swiglu-deep": "SwiGLU: deep",
        "language-swiglu-least-squares-2": "SwiGLU: least squares, no training",
    }
    points = by_key(results("language-surgery"), "run")
    rows = [
        (
            name,
            count(points[run]["parameters"]),
            with_deviation([each["perplexity"] for each in points[run]["test"]]),
            ratio(points[run]["flops_ratio"]),
            ratio(points[run]["time_ratio"]),
        )
        for run, name in names.items()
    ]
    return Table(("", "parameters", "test perplexity", "FLOPs / deep", "time / deep"), rows)
