"""Costs of a forward pass: FLOPs by XLA's count, and milliseconds."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def compile_forward(
    apply: Callable[[Any, Any], Any], variables: Any, inputs: Any
) -> Callable[[Any, Any], Any]:
    """Returns `apply` compiled for variables and inputs of these shapes."""
    return jax.jit(apply).lower(variables, inputs).compile()


def flops(compiled: Any) -> float:
    """Returns the floating-point operations of one call, as XLA counts them."""
    return float(compiled.cost_analysis()["flops"])


def latencies(
    calls: Mapping[str, Callable[[], Any]],
    *,
    warmup: int = 3,
    repeats: int = 30,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the median time of each call in milliseconds.

    The time includes the device's work. Calls are interleaved, so that other load on the machine
    affects all of them alike.

    Args:
      calls: by name; each runs a compiled function.
      warmup: rounds that are not timed.
      repeats: rounds that are timed.
      clock: returns the time in seconds.
    """
    times = {name: [] for name in calls}
    for i in range(warmup + repeats):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            if i >= warmup:
                times[name].append(clock() - start)
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
