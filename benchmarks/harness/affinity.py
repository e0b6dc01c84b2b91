"""CPU cores of benchmarks that run at once."""

import os
from collections.abc import Iterator, Sequence


def core_shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Returns disjoint shares of the cores, `count` of them or one per core if there are fewer."""
    count = min(count, len(cores))
    size = len(cores) // count
    ends = [size * i for i in range(count)] + [len(cores)]
    return [list(cores[start:end]) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def available_cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def pin_thread(shares: Iterator[list[int]]) -> None:
    """Restricts this thread, and the processes that it starts, to the next share of cores."""
    os.sched_setaffinity(0, next(shares))
