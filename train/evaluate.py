"""Evaluates a compact checkpoint on the test split: `python -m train.evaluate runs/NAME/compact`.

The checkpoint describes its module and data; no other file of the run is needed. Prints one JSON
object.
"""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import json
import sys
from pathlib import Path
from typing import Any

import tyro

from lcjax._messages import printable
from train.runs.evaluation import evaluate_checkpoint


def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    /,
    *,
    data_dir: Path | None = None,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Evaluates a compact checkpoint on the test split of the data it was trained on.

    Args:
      checkpoint: directory of the checkpoint, such as runs/NAME/compact.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      batch_size: examples per call.
    """
    return evaluate_checkpoint(checkpoint, data_dir=data_dir, batch_size=batch_size)


def main() -> None:
    """Runs the command line."""
    try:
        print(json.dumps(tyro.cli(evaluate, prog="python -m train.evaluate")))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {printable(error)}")


if __name__ == "__main__":
    main()
