"""Evaluates a checkpoint on its test split, in this process or in a new one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import lcjax
from train.data.spec import ALL
from train.runs.finished import classifier_of
from train.tasks.modalities import MODALITIES

# Settings of a second process, which cannot share a device that its parent occupies.
_CHILD_ENVIRONMENT = {
    "gpu": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "tpu": {"JAX_PLATFORMS": "cpu"},
}


def evaluate_checkpoint(
    checkpoint: Path, *, data_dir: Path | None = None, batch_size: int = 128
) -> dict[str, Any]:
    """Returns the scores of a checkpoint on the test split of the data it was trained on.

    Args:
      checkpoint: directory from `lcjax.save`.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      batch_size: examples per call.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it is damaged or not from a training run, or its data set does not exist.
    """
    classifier, metadata = classifier_of(checkpoint, needs=ALL)
    variables = lcjax.restore(checkpoint)
    test = MODALITIES[metadata["kind"]].read_test_split(metadata["data"], data_dir)
    return classifier.evaluator(batch_size)(variables, test)


def evaluate_in_new_process(checkpoint: Path, *flags: str) -> dict[str, Any]:
    """Returns the output of `python -m train.evaluate`.

    Raises:
      RuntimeError: if that process fails; with its error output.
    """
    command = [sys.executable, "-m", "train.evaluate", str(checkpoint), *flags]
    environment = os.environ | _CHILD_ENVIRONMENT.get(jax.default_backend(), {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)
