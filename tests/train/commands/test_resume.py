"""Runs on texts that are stopped and resumed: bit for bit those that were not."""

import pytest

from tests.helpers import tiny_sentiment, tiny_text
from tests.helpers.runs import (
    command_line,
    fit,
    interrupt_after,
    kill_and_resume,
    last_state,
    prepare,
    same_bits,
)
from train.engine.metrics_writer import FILE, read_metrics
from train.tasks.language import presets as language
from train.tasks.text import presets as text

OFTEN = {"dropout": 0.1, "checkpoint_every": 3, "log_every": 1}


@pytest.fixture(scope="module", params=["sentiment", "language"])
def modality(request, tmp_path_factory):
    """The command, its presets, and a function that makes a small configuration."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sentiment":
        root = tiny_sentiment.write_root(folder)
        fields = tiny_text.PLAIN | OFTEN | {"lengths": (12, 24)}
        make = lambda **more: tiny_sentiment.on_texts(root, **fields | more)
        return "train.sentiment", text.PRESETS, make
    file = tiny_text.write_text(folder / "a.txt")
    fields = tiny_text.PLAIN | OFTEN | {"steps_per_dispatch": 2}
    make = lambda **more: tiny_text.on_text(file, **fields | more)
    return "train.language", language.PRESETS, make


def same_records(*directories):
    """Asserts that runs wrote the same records, and some."""
    first, second = ((directory / FILE).read_text() for directory in directories)
    assert first == second != ""


@pytest.mark.slow
@pytest.mark.promotes
def test_interrupted_run_equals_whole_run(modality, tmp_path, monkeypatch):
    """Interrupted in its second save, as by Ctrl-C."""
    job = prepare(modality[2](epochs=2))
    whole = fit(tmp_path / "whole", job)
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves=2)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", job)
    assert 0 < int(last_state(tmp_path / "broken", job).step) < int(whole.step)
    same_bits(fit(tmp_path / "broken", job), whole)
    same_records(tmp_path / "whole", tmp_path / "broken")
    losses = [r["train/loss"] for r in read_metrics(tmp_path / "whole") if "train/loss" in r]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.promotes
def test_killed_process_resumes_as_whole_run(modality, tmp_path):
    command, presets, make = modality
    config = make(epochs=20, name="a", runs_dir=tmp_path)
    kill_and_resume(*command_line(config, presets), directory=tmp_path / "a", module=command)
    job = prepare(config)
    same_bits(last_state(tmp_path / "a", job), fit(tmp_path / "whole", job))
    same_records(tmp_path / "whole", tmp_path / "a")
