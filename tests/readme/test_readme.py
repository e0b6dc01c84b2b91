"""The README: its quickstart runs as written, in a fresh process and an empty directory."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_quickstart_runs_as_written_and_prints_what_the_readme_shows(tmp_path):
    text = README.read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text, re.S).groups()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracies = re.findall(r"accuracy (\d\.\d+)", done.stdout)
    assert len(accuracies) == 3 and len(set(accuracies)) == 1 and float(accuracies[0]) > 0.9
    # Rounding differs between processors, what is collapsed does not.
    without_decimals = [re.sub(r"\d\.\d+", "", text) for text in (done.stdout, shown)]
    assert without_decimals[0] == without_decimals[1]
    assert (tmp_path / "digits-compact").is_dir()
