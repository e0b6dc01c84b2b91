"""Times several calls in turn, so that whatever else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 3, rest: float = 0.0
) -> dict[str, list[float]]:
    """Returns the seconds of each call in every round, after rounds that are not timed.

    A call is waited for until the device is done. The order turns about from round to round.

    Args:
      calls: by name.
      rounds: timed calls of each.
      warmup: rounds that are not timed.
      rest: seconds before each call, in which another library's threads stop looking for work.
    """
    names, seconds = list(calls), {name: [] for name in calls}
    for i in tqdm(range(warmup + rounds), desc="timing", leave=False):
        for name in names if i % 2 else reversed(names):
            time.sleep(rest)
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> dict[str, float]:
    """Returns the ratio of the medians, and the quartiles of the ratios round by round."""
    low, _, high = statistics.quantiles(
        (one / other for one, other in zip(seconds, base, strict=True)), n=4
    )
    medians = statistics.median(seconds) / statistics.median(base)
    return {"of_medians": medians, "lower_quartile": low, "upper_quartile": high}
