"""Methods on one finished run: rows are as those of a method's own run, and none is repeated."""

import json
import subprocess
import sys

import pytest

from benchmarks.form_comparison import missing, parse_methods


def test_only_methods_and_rates_without_a_row_are_run():
    rows = {"linear": {"healed": {"1e-3": {}}}, "units": {"healed": {}}, "blocks": {"skipped": ""}}
    methods = parse_methods(["linear=1e-3,3e-3", "units=", "plan", "variance=1e-4", "blocks=1e-3"])
    assert missing(rows, methods) == {"linear": ("3e-3",), "plan": (), "variance": ("1e-4",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("flop", "got method 'flop', expected one of linear, "), ("units=fast", "got rate 'fast'")],
)
def test_unknown_methods_and_rates_are_refused(text, message):
    with pytest.raises(SystemExit, match=message):
        parse_methods([text])


@pytest.mark.slow
def test_comparison_heals_as_a_run_of_the_method_does(tmp_path):
    def run(*line):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, line)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    source, out = tmp_path / "source", tmp_path / "rows.json"
    here = ("--runs-dir", tmp_path)
    flags = ("--protocol", "fit-heal", "--count", 1, "--epochs", 1, "--heal-epochs", 1)
    run("train.image", "digits-mlp", *flags, *here, "--name", "source")
    run("benchmarks.form_comparison", source, "magnitude=3e-3", "--out", out)
    alone = ("--heal-learning-rate", "3e-3", "--heal-epochs", 1, *here, "--name", "alone")
    run("benchmarks.baselines", "magnitude", source, *alone)
    run("benchmarks.form_comparison", source, "blocks", "--out", out)
    assert "skipped" in json.loads(out.read_text())["blocks"]  # the network has no blocks
    row = json.loads(out.read_text())["magnitude"]
    summary = json.loads((tmp_path / "alone/summary.json").read_text())
    for split in ("validation", "test"):
        assert row["healed"]["3e-3"][split] == summary["compact"][split]
    assert row["compact"]["parameters"] == summary["compact"]["parameters"] - summary.get(
        "removed", 0
    )
