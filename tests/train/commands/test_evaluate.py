"""Evaluating a compact checkpoint: with nothing but what it says of itself, in its own process."""

import sys

import jax
import numpy as np
import pytest

import lcjax
from tests.helpers.runs import configured, prepare
from tests.helpers.trees import with_slopes
from train import evaluate
from train.runs.conclude import _metadata
from train.runs.evaluation import evaluate_in_new_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job():
    return prepare(configured(hidden=(8,), strength=9.0))


@pytest.fixture(scope="module")
def compact(job):
    return lcjax.collapse(with_slopes(jax.device_get(job.state.variables), 1.0))[0]


@pytest.fixture
def checkpoint(job, compact, tmp_path):
    path = tmp_path / "compact"
    lcjax.save(path, compact, metadata=_metadata(job.task))
    return path


@pytest.mark.parametrize("batch_size", [7, 128])
def test_it_returns_what_the_model_in_hand_gives(job, compact, checkpoint, batch_size):
    want = job.task.classifier.evaluator(batch_size)(compact, job.task.data.test())
    assert evaluate.evaluate(checkpoint, batch_size=batch_size) == want
    assert 0 < want["accuracy"] < 1 and np.isfinite(want["loss"])


def test_a_fresh_process_gives_the_same(job, compact, checkpoint):
    want = job.task.classifier.evaluator(64)(compact, job.task.data.test())
    assert evaluate_in_new_process(checkpoint, "--batch-size", "64") == want


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="nowhere failed:\nerror: .*nowhere: no such checkpoint"):
        evaluate_in_new_process(tmp_path / "nowhere")


def call(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["train.evaluate", *map(str, flags)])
    evaluate.main()


@pytest.mark.parametrize("metadata", [None, {"model": {}}])
def test_a_checkpoint_of_something_else_is_an_error(tmp_path, monkeypatch, metadata):
    lcjax.save(tmp_path / "a", {"kernel": np.ones(2)}, metadata=metadata)
    with pytest.raises(SystemExit, match="error: .*a does not describe its model and data"):
        call(monkeypatch, tmp_path / "a")


def test_a_data_set_that_is_gone_is_an_error(job, compact, tmp_path, monkeypatch):
    metadata = _metadata(job.task)
    metadata["data"] |= {"dataset": "no set"}
    lcjax.save(tmp_path / "a", compact, metadata=metadata)
    with pytest.raises(SystemExit, match="error: 'no set' is not the name of a data set"):
        call(monkeypatch, tmp_path / "a")
    metadata["data"] |= {"dataset": "digits", "num_classes": 7}
    lcjax.save(tmp_path / "b", compact, metadata=metadata)
    with pytest.raises(SystemExit, match="error: digits: num_classes is 7, but its labels have 10"):
        call(monkeypatch, tmp_path / "b")
