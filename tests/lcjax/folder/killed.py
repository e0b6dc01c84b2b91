"""Collapses a folder and kills its own process: `python -m ... SOURCE TARGET FORMS STEP`."""

import os
import signal
import sys

import lcjax
from lcjax.folder import FolderOptions, collapse_model
from lcjax.folder.storage.work_directory import WorkDirectory
from tests.lcjax.folder.folders import texts

record = WorkDirectory.mark_done


def _main(source, target, forms, step):
    """Kills the process when all of a step is written but not recorded."""

    def kill_or_record(self, name, result):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
        record(self, name, result)

    WorkDirectory.mark_done = kill_or_record
    options = FolderOptions(forms=forms, multiple_of=8)
    collapse_model(source, target, texts(), budget=lcjax.Params(0.75), options=options)


if __name__ == "__main__":
    _main(*sys.argv[1:])
