"""Times of models on this device, measured in turns so that a slow moment hits all of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

_ROUNDS = 8
_SECONDS = 0.02  # shortest time of one reading


def times_of(
    run: Callable[..., Any], trees: Mapping[Any, Any], inputs: tuple[Any, ...]
) -> dict[Any, float]:
    """Returns the time of one batch for each tree, in milliseconds; the least of eight readings.

    Each tree is compiled alone; a reading repeats the call until it takes 20 ms, and readings of
    all trees alternate.

    Args:
      run: `run(variables, *inputs)` returns the model's output.
      trees: by any name.
      inputs: of one batch; moved to the device before.
    """
    inputs = jax.device_put(inputs)
    program = jax.jit(run)
    repeats: dict[Any, int] = {}
    for name, tree in trees.items():
        jax.block_until_ready(program(tree, *inputs))  # compiles
        once = _seconds(program, tree, inputs, 1)
        repeats[name] = max(1, round(_SECONDS / max(once, 1e-6)))
    best = dict.fromkeys(trees, float("inf"))
    for _ in range(_ROUNDS):
        for name, tree in trees.items():
            spent = _seconds(program, tree, inputs, repeats[name]) / repeats[name]
            best[name] = min(best[name], 1e3 * spent)
    return best


def _seconds(
    program: Callable[..., Any], tree: Any, inputs: tuple[Any, ...], repeats: int
) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        output = program(tree, *inputs)
    jax.block_until_ready(output)
    return time.perf_counter() - start
