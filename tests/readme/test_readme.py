"""README and the pages of docs: blocks of Python run as written, what is named exists."""

import functools
import importlib
import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import lcjax
from tests.reference.minilm import PACKAGE

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
DOCUMENTS = [
    *(README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"),
    *(ROOT / "train" / "README.md", ROOT / "benchmarks" / "README.md"),
    *GUIDES,
]
# A block and, where the next paragraph is "prints", what it prints.
PRINTS = r"(?:\n\nprints\n\n```text\n(.*?)^```)?"
BLOCK = re.compile(rf"^```python\n(.*?)^```{PRINTS}", re.S | re.M)


def scripts(path):
    """Returns (code, output) of a page's scripts; a block without `import lcjax` goes on."""
    found = []
    for block, shown in BLOCK.findall(path.read_text(encoding="utf-8")):
        if not found or re.search(r"^import lcjax$", block, re.M):
            found.append(["", ""])
        found[-1][0] += block
        found[-1][1] += shown
    return [(code, shown) for code, shown in found]


def name(path):
    return str(path.relative_to(ROOT))


SCRIPTS = [
    pytest.param(code, shown, id=f"{name(path)}-{number}")
    for path in (README, *GUIDES)
    for number, (code, shown) in enumerate(scripts(path))
]


def run(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_decimals(text):
    """Returns lines without what rounding on another processor may change."""
    text = re.sub(r"\d\.\d+", "0.0", text)
    return [re.sub(r"[ ─]+", " ", line).rstrip() for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("code, shown", SCRIPTS)
def test_script_runs_and_prints_what_is_shown(code, shown, tmp_path):
    if PACKAGE in code and not list(metadata.distributions(name=PACKAGE)):
        pytest.skip(f"needs the package {PACKAGE}")
    for module in re.findall(r"^(?:import|from) (sklearn|equinox|safetensors)", code, re.M):
        pytest.importorskip(module)
    printed = without_decimals(run(code, tmp_path))
    place = 0
    for line in without_decimals(shown):
        assert line in printed[place:], f"{line!r} is not printed, or not in this order"
        place += printed[place:].index(line) + 1


def test_quickstart_shows_accuracies_that_are_equal():
    for path in (README, ROOT / "docs" / "quickstart.md"):
        found = re.findall(r"^accuracy (\d\.\d+)$", path.read_text(encoding="utf-8"), re.M)
        assert len(found) == 2 and len(set(found)) == 1


def test_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 900


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_names_a_module(path):
    text = path.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m ((?:benchmarks|train|lcjax)[\w.]*\w)", text)):
        spec = importlib.util.find_spec(module)
        assert spec, module
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), module


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_file_of_the_repository_exists(path):
    text = path.read_text(encoding="utf-8")
    for found in set(re.findall(r"`((?:benchmarks|tests|train|lcjax|docs)/[\w./-]+)`", text)):
        if "_build" not in found:
            assert (ROOT / found).exists(), found
    for found in set(re.findall(r"\]\((?!https?:)([\w./-]+)\)", text)):
        assert (path.parent / found).exists(), found


@pytest.mark.parametrize("path", [README, *GUIDES], ids=name)
def test_every_public_name_exists(path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^```text.*?^```", "", text, flags=re.S | re.M)
    if "lcjax.eqx" in text:
        pytest.importorskip("equinox")
    for found in set(re.findall(r"\blcjax((?:\.[A-Za-z_]\w*)+)", text)):
        if not found.startswith((".transform", ".css", ".tree", ".structure")):
            functools.reduce(getattr, found[1:].split("."), lcjax)
