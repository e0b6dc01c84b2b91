"""Compresses the deep model of a finished run by a baseline or by lcjax, and heals it.

`python -m benchmarks.baselines variance RUN --parameters 407050`: to so many parameters of the
whole network, chosen and fitted on the run's own calibration data.
"""

import sys

from benchmarks.baselines import base
from benchmarks.baselines.registry import REGISTRY


def main() -> None:
    """Runs the command line.

    Raises:
      SystemExit: for an unknown name; lists the known ones.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in REGISTRY:
        sys.exit(f"error: got {name!r}, expected one of {', '.join(REGISTRY)}.")
    sys.argv = [f"python -m benchmarks.baselines {name}", *sys.argv[2:]]
    base.main(REGISTRY[name].compress, REGISTRY[name].title)


if __name__ == "__main__":
    main()
