"""The quickstart of lcjax.collapsible does what it says, in two processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("quickstart_any_function.py")


@pytest.mark.slow
def test_quickstart(tmp_path):
    pytest.importorskip("equinox")
    pytest.importorskip("sklearn")
    path = str(tmp_path / "compact")
    run = lambda mode: (
        subprocess.run(
            [sys.executable, SCRIPT, mode, path], check=True, capture_output=True, text=True
        ).stdout
    )
    trained, restored = run("train"), run("restore")
    accuracies = re.findall(r"accuracy (\S+), compact (\S+)", trained)
    (deep, compact), (again,) = accuracies[0], re.findall(r"accuracy (\S+), restored", restored)
    assert deep == compact == again and float(again) > 0.94
    before, after = re.findall(r"parameters ([\d,]+) → ([\d,]+)", trained)[0]
    assert int(after.replace(",", "")) < 0.6 * int(before.replace(",", ""))
