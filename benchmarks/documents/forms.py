"""Tables of forms of MLPs: what a plan chooses, next to single forms and the best baseline."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.baselines.registry import BASELINES, OURS
from benchmarks.documents.results import DASH, count, results, with_deviation
from benchmarks.harness.publish import RESULTS, Table

HEADERS = (
    "network",
    "parameters",
    "",
    "deep",
    "plan",
    "kept units",
    "one matrix",
    "best baseline",
    "plan ahead by",
)
TIMED_HEADERS = (
    "network",
    "",
    "low rank: parameters",
    "time, %",
    "score",
    "plan: parameters",
    "time, %",
    "score",
)
FINISHED_HEADERS = (
    "network",
    "parameters",
    "time",
    "deep",
    "untrained (baseline)",
    "healed (baseline)",
)
# In the order of README, with what is counted.
TITLES = {
    "fashion-mlp": "Fashion-MNIST MLP",
    "fashion-mixer": "Fashion-MNIST Mixer",
    "cifar10-vit": "CIFAR-10 ViT",
    "cifar10-mixer": "CIFAR-10 Mixer",
    "sst2-minilm": "SST-2 MiniLM",
    "shakespeare-small": "Shakespeare GPT, perplexity",
}
_PLANS = {OURS["plan"].title: "", OURS["plan-influence"].title: " (influence)"}


def forms() -> Table:
    """Returns test scores of every network and size: untrained, then healed."""
    rows: list[Sequence[str]] = []
    for path in sorted(RESULTS.glob("forms-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["results"]
        rows += _rows(path.stem.removeprefix("forms-"), found)
    return Table(HEADERS, rows)


def forms_in_equal_time() -> Table:
    """Returns test scores of low rank, and of the plan that is as fast; times are of one run."""
    rows: list[Sequence[str]] = []
    for path in sorted(RESULTS.glob("forms-*.json")):
        points = json.loads(path.read_text(encoding="utf-8"))["results"]
        for plan in (point for point in points if "times" in point):
            of_plan = (BASELINES["whitened"].title, plan["sites"], plan["state"])
            same = [
                point
                for point in points
                if (point["method"], point.get("sites"), point.get("state")) == of_plan
            ]
            if not same:
                continue
            cells = [path.stem.removeprefix("forms-"), plan["state"]]
            for name, point in (("low rank", same[0]), ("plan", plan)):
                time = statistics.mean(each[name] for each in plan["times"])
                cells += [count(point["parameters"]), f"{100 * time:.0f}", _score(point)]
            rows.append(cells)
    return Table(TIMED_HEADERS, rows)


def finished() -> Table:
    """Returns one row a network, at the smallest size compared: size, time, test scores.

    Of two plans both columns show the one that is better on the validation split once healed. Bold
    is what is ahead by more than the deviation of the difference.
    """
    rows = []
    for name, title in TITLES.items():
        deep, *points = results(f"forms-{name}")
        untrained, healed = _pairs(points)[-2:]
        plan = healed.plan
        shown = [(untrained.points[plan["method"]], untrained.best), (plan, healed.best)]
        rows.append(
            (
                title,
                f"{count(deep['parameters'])} → {count(plan['parameters'])}",
                with_deviation(plan["time_ratio"]),
                _score(deep),
                *(f"{_bold_if_ahead(ours, best)} ({_score(best)})" for ours, best in shown),
            )
        )
    return Table(FINISHED_HEADERS, rows)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """The plan and the best baseline of a size and a state, None where there is none."""

    state: str
    points: Mapping[str, dict[str, Any]]  # by method
    plan: Any
    best: Any


def _pairs(points: Sequence[dict[str, Any]]) -> list[_Pair]:
    """Returns the comparisons of a network: by size from the largest, untrained then healed."""
    found = []
    for sites in sorted({point["sites"] for point in points}):
        for state in ("untrained", "healed"):
            own = {
                point["method"]: point
                for point in points
                if point["sites"] == sites and point.get("state") == state and "times" not in point
            }
            plan = best_of([p for p in own.values() if p["method"] in _PLANS])
            best = best_of([p for p in own.values() if p["method"] in _baselines()])
            found.append(_Pair(state, own, plan, best))
    return found


def _rows(network: str, points: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """Yields the rows of a network."""
    deep, *others = points
    for pair in _pairs(others):
        plan, best = pair.plan, pair.best
        size = count(plan["parameters"]) if plan else DASH
        planned = _score(plan) + _PLANS[plan["method"]] if plan else DASH
        single = [pair.points.get(OURS[name].title) for name in ("units", "linear")]
        shown = [planned, *(_score(each) if each else DASH for each in single)]
        baseline = f"{_score(best)} ({best['method']})" if best else DASH
        ahead = _ahead(plan, best) if plan and best else DASH
        yield (network, size, pair.state, _score(deep), *shown, baseline, ahead)


def best_of(points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the method with the best mean on the validation split; None of none."""

    def quality(point: dict[str, Any]) -> float:
        name, sign = ("accuracy", 1) if point["metric"] == "accuracy" else ("loss", -1)
        return sign * statistics.mean(each[name] for each in point["validation"])

    return max(points, key=quality, default=None)


def _ahead(plan: dict[str, Any], best: dict[str, Any]) -> str:
    """Returns by how much a plan is better than a baseline, on the same deep network each time."""
    digits = 2 if plan["metric"] == "accuracy" else 3
    return with_deviation(_differences(plan, best), digits=digits)


def _bold_if_ahead(plan: dict[str, Any], best: dict[str, Any]) -> str:
    ahead = _differences(plan, best)
    certain = statistics.mean(ahead) > statistics.stdev(ahead)
    return f"**{_score(plan)}**" if certain else _score(plan)


def _differences(plan: dict[str, Any], best: dict[str, Any]) -> list[float]:
    """Returns by how much a plan is better with each seed: in percent, or of perplexity."""
    pairs = zip(plan["test"], best["test"], strict=True)
    if plan["metric"] == "accuracy":
        return [100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs]
    return [b["perplexity"] - a["perplexity"] for a, b in pairs]


def _baselines() -> set[str]:
    return {method.title for method in BASELINES.values()}


def _score(point: dict[str, Any]) -> str:
    if point["metric"] == "accuracy":
        return with_deviation([100 * each["accuracy"] for each in point["test"]])
    return with_deviation([each["perplexity"] for each in point["test"]], digits=3)
