"""Timing: several calls, alternating, so that other load affects all alike; and one call."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm

_COMPILATION = "/jax/core/compile/"  # events of tracing, lowering and compilation begin so


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 3,
    rest: float = 0.0,
    untimed: int = 0,
) -> dict[str, list[float]]:
    """Returns the seconds of each call in every timed round.

    Each call is timed until its outputs are ready. The order is random in each round: a call that
    follows itself finds its data in the caches, and in a fixed order or one that reverses, some
    calls do so more often than others.

    Args:
      calls: by name.
      rounds: timed calls of each.
      warmup: rounds before them, not timed.
      rest: seconds before each call, during which threads of another library stop spinning.
      untimed: calls of the same before each timed one, so that it finds its data in the caches, as
        a program that does nothing else does.
    """
    names, seconds, order = list(calls), {name: [] for name in calls}, random.Random(0)
    for i in tqdm(range(warmup + rounds), desc="timing", leave=False):
        for name in order.sample(names, len(names)):
            time.sleep(rest)
            for _ in range(untimed):
                jax.block_until_ready(calls[name]())
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def without_compilation(
    call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Returns the seconds of a call until its outputs are ready, without those of compilation.

    These are the seconds of JAX's tracing, lowering and compilation. What the device computes
    meanwhile is taken out with them.

    Args:
      call: what is timed.
      clock: returns the time in seconds.
    """
    compilation = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_COMPILATION):
            compilation.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        start = clock()
        jax.block_until_ready(call())
        seconds = clock() - start
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return seconds - sum(compilation)


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
