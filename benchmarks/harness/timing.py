"""Interleaved timing: several calls, alternating, so that other load affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 3, rest: float = 0.0
) -> dict[str, list[float]]:
    """Returns the seconds of each call in every timed round.

    Each call is timed until its outputs are ready. The order reverses from round to round.

    Args:
      calls: by name.
      rounds: timed calls of each.
      warmup: rounds before them, not timed.
      rest: seconds before each call, during which threads of another library stop spinning.
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


def quartiles(found: Mapping[str, float], digits: int = 3) -> str:
    """Returns the quartiles of a `ratio` as text."""
    return f"{found['lower_quartile']:.{digits}f} to {found['upper_quartile']:.{digits}f}"
