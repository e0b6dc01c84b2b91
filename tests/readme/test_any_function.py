"""The quickstart of lcjax.collapsible: README shows it, and it does that in two processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("quickstart_any_function.py")
README = Path(__file__).parents[2] / "README.md"


def in_readme():
    """Returns the code and the output that README shows."""
    text = README.read_text(encoding="utf-8")
    start = text.index(f"tests/readme/{SCRIPT.name}")
    return re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text[start:], re.S).groups()


def test_readme_shows_the_script():
    assert in_readme()[0] == SCRIPT.read_text(encoding="utf-8")


@pytest.mark.slow
def test_script_prints_what_readme_shows(tmp_path):
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
    # Rounding differs between processors, what is collapsed does not.
    plain = [
        [re.sub(r"\d\.\d+", "", line).rstrip() for line in text.splitlines()]
        for text in (printed, in_readme()[1])
    ]
    assert plain[0] == plain[1]
