"""Which code a result is of, and how long it took: the commit, and seconds of all processes."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SUFFIX = ".seconds"


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


class EarlierRuns:
    """Seconds of runs that other processes made, of which this one publishes the results.

    The seconds of a run are in a file next to its log, with those of attempts that failed or were
    interrupted by the user.
    """

    def __init__(self):
        self._known: set[Path] = set()
        self._seconds = 0.0

    def use(self, log: Path) -> None:
        """Adds the seconds that earlier processes spent on a run; once for each run.

        Args:
          log: of the run, whether it exists or not.
        """
        log = log.resolve()
        if log not in self._known:
            self._known.add(log)
            self._seconds += _spent(log)

    @staticmethod
    def forget(log: Path) -> None:
        """Removes the seconds of a run that starts anew."""
        log.with_suffix(_SUFFIX).unlink(missing_ok=True)

    @staticmethod
    def record(log: Path, seconds: float) -> None:
        """Adds the seconds that this process spent on a run to its file."""
        log.with_suffix(_SUFFIX).write_text(f"{_spent(log) + seconds:.1f}\n")

    def take(self) -> float:
        """Returns the seconds that were added since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _spent(log: Path) -> float:
    path = log.with_suffix(_SUFFIX)
    return float(path.read_text()) if path.exists() else 0.0


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
EARLIER_RUNS = EarlierRuns()
