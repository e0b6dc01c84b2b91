"""Saves a folder and kills its own process: `python -m ... SOURCE TARGET`."""

import os
import signal
import sys

import jax

from lcjax.folder import load_model, save_model
from lcjax.folder.storage.compact_folder import CompactFolder


def _main(source, target):
    """Kills the process when all but the last of the files are written."""
    CompactFolder.write_rest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    _, variables = load_model(source)
    save_model(target, jax.tree.map(lambda leaf: 2 * leaf, variables), like=source)


if __name__ == "__main__":
    _main(*sys.argv[1:])
