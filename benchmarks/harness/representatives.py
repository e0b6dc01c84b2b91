"""The few of many methods that a picture names."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal

Role = Literal["deep", "ours", "ours with a teacher", "baseline", "baseline with a teacher"]


def representatives(points: Sequence[dict[str, Any]]) -> dict[str, Role]:
    """Returns the deep model and the best of lcjax and of the baselines, by method.

    Methods with a teacher are compared with one another only. The best has the highest mean
    accuracy over the sizes, of those methods that were run at the most sizes.

    Args:
      points: with `method`, and `accuracy` and `parameters`, one of each per seed.

    Example:
      >>> of = lambda name, value: {"method": name, "accuracy": [value], "parameters": [1]}
      >>> representatives([of("deep", 0.9), of("lcjax: a", 0.8), of("lcjax: b", 0.7)])
      {'deep': 'deep', 'lcjax: a': 'ours'}
    """
    scores: dict[str, list[float]] = {}
    for point in points:
        scores.setdefault(point["method"], []).append(statistics.mean(point["accuracy"]))
    shown = [method for method in scores if method == "deep" or not _is_deep(method)]
    roles: dict[str, Role] = {method: _role(method) for method in shown}
    found: dict[str, Role] = {}
    for role in dict.fromkeys(roles.values()):
        own = [method for method in scores if roles.get(method) == role]
        most = max(len(scores[method]) for method in own)
        full = [method for method in own if len(scores[method]) == most]
        found[max(full, key=lambda method: statistics.mean(scores[method]))] = role
    return found


def _is_deep(method: str) -> bool:
    return method.startswith("deep")


def _role(method: str) -> Role:
    if _is_deep(method):
        return "deep"
    if method.startswith("lcjax"):
        return "ours with a teacher" if "distilled" in method else "ours"
    return "baseline with a teacher" if "distilled" in method else "baseline"
