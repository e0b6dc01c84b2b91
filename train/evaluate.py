"""Evaluates a compact checkpoint on the test split: `python -m train.evaluate runs/NAME/compact`.

The checkpoint says which module and data it was made with; nothing else of the run is needed.
Prints one JSON object.
"""

if __name__ == "__main__":  # before all that takes time to import
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import tyro

from lcjax._messages import printable
from lcjax.io.checkpoint import restore
from train.data.images.dataset import load
from train.data.spec import ALL
from train.runs.finished import classifier_of
from train.tasks.language.task import text_to_test
from train.tasks.text.task import texts_to_test

# A second process cannot share a device that its parent holds whole.
_BESIDE_PARENT = {
    "gpu": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "tpu": {"JAX_PLATFORMS": "cpu"},
}


def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    /,
    *,
    data_dir: Path | None = None,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Evaluates a compact checkpoint on the test split of the data it was trained on.

    Args:
      checkpoint: directory that `lcjax.save` made.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own.
      batch_size: examples a call.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      ValueError: when it is damaged or not one of a training run, or its data set is not there.
    """
    classifier, metadata = classifier_of(checkpoint, needs=ALL)
    variables = restore(checkpoint)
    test = _READERS[metadata["kind"]](metadata["data"], data_dir)
    return classifier.evaluator(batch_size)(variables, test)


def evaluate_afresh(checkpoint: Path, *flags: str) -> dict[str, Any]:
    """Returns what `evaluate` returns in a process of its own.

    Raises:
      RuntimeError: when that process fails; with what it said.
    """
    command = [sys.executable, "-m", "train.evaluate", str(checkpoint), *flags]
    environment = os.environ | _BESIDE_PARENT.get(jax.default_backend(), {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _images_to_test(known: dict[str, Any], data_dir: Path | None) -> Any:
    data = load(
        known["dataset"],
        data_dir=data_dir,
        num_classes=known["num_classes"],
        image_size=known["image_size"],
    )
    return data.test()


_READERS = {"image": _images_to_test, "text": texts_to_test, "language": text_to_test}


def main() -> None:
    """Runs the command line."""
    try:
        print(json.dumps(tyro.cli(evaluate, prog="python -m train.evaluate")))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {printable(error)}")


if __name__ == "__main__":
    main()
