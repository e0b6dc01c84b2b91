"""The README: its blocks of Python run as written, and what it and the changelog name exists."""

import functools
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
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PRINTS = r"(?:\n\nprints\n\n```text\n(.*?)^```)?"
BLOCKS = re.findall(rf"^```python\n(.*?)^```{PRINTS}", TEXT, re.S | re.M)


def scripts():
    """Yields (code, output) of every block; one without imports goes on from those above it."""
    code = ""
    for block, shown in BLOCKS:
        code = block if re.search(r"^import lcjax$", block, re.M) else code + block
        yield code, shown


def run(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_decimals(text):
    """Returns a text without what rounding on another processor may change."""
    return re.sub(r" +", " ", re.sub(r"\d\.\d+", "0.0", text))


def accuracies(text):
    return [float(found) for found in re.findall(r"accuracy (\d\.\d+)", text)]


@pytest.mark.slow
def test_quickstart_runs_and_both_forms_are_accurate(tmp_path):
    code, shown = BLOCKS[0]
    printed = run(code, tmp_path)
    found = accuracies(printed)
    assert len(found) == 3 and len(set(found)) == 1 and found[0] > 0.9
    assert without_decimals(printed) == without_decimals(shown)
    assert (tmp_path / "digits-compact").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, len(BLOCKS)))
def test_block_runs_and_prints_what_is_shown(number, tmp_path):
    code, shown = list(scripts())[number]
    if "sys.argv" in code:
        pytest.skip("a script with arguments, which test_any_function runs")
    if PACKAGE in code and not list(metadata.distributions(name=PACKAGE)):
        pytest.skip(f"needs the package {PACKAGE}")
    printed = run(code, tmp_path)
    if shown:
        assert without_decimals(printed) == without_decimals(shown)


def test_every_command_names_a_module():
    for module in set(re.findall(r"python -m ((?:benchmarks|train|lcjax)[\w.]*\w)", TEXT)):
        spec = importlib.util.find_spec(module)
        assert spec, module
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), module


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_every_file_of_the_repository_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"[`(]((?:benchmarks|tests|train|lcjax)/[\w./-]+)[`)]", text))
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_public_name_exists():
    for name in set(re.findall(r"\blcjax((?:\.\w+)+)\(?", TEXT)):
        functools.reduce(getattr, name[1:].split("."), lcjax)
