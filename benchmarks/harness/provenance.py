"""Which code a result is of, and how long it took: the commit, and seconds of the process."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def commit(root: Path = _ROOT) -> str | None:
    """Returns the commit of a checkout, with "-dirty" if other files than results differ from it.

    Args:
      root: of the checkout; without git, or outside of a repository, the answer is None.
    """
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    # Benchmarks that ran before have written results.
    changed = _git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return f"{head}-dirty" if changed else head


class Stopwatch:
    """Splits the time of a process over the results that it publishes.

    Attributes:
      clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self._since = clock()

    def lap(self) -> float:
        """Returns the seconds since the last call, the first time since it was made."""
        since, self._since = self._since, self.clock()
        return self._since - since


def duration(seconds: float) -> str:
    """Returns seconds as text, in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _git(root: Path, *arguments: str) -> str | None:
    line = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# When the benchmark starts: the tree may have other commits by the time it ends.
STARTED_AT = commit()
STOPWATCH = Stopwatch()
