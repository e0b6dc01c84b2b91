"""An Equinox model learns slopes in one process, and another restores what was collapsed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("quickstart_any_function.py")


@pytest.mark.slow
def test_compact_model_is_restored_in_another_process(tmp_path):
    pytest.importorskip("equinox")
    pytest.importorskip("sklearn")
    path = str(tmp_path / "compact")
    run = lambda mode: (
        subprocess.run(
            [sys.executable, SCRIPT, mode, path], check=True, capture_output=True, text=True
        ).stdout
    )
    printed = run("train") + run("restore")
    accuracies = re.findall(r"accuracy (\S+), compact (\S+)\naccuracy (\S+), restored", printed)
    assert len(set(accuracies[0])) == 1 and float(accuracies[0][0]) > 0.94
    assert "layers/1   0.0000   one matrix" in printed and "parameters 150,794 → 19,210" in printed
