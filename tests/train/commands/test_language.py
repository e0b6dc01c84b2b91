"""`python -m train.language`: what is evaluated, pretrained weights, bad input, whole runs."""

import json
import math

import jax
import numpy as np
import pytest

import lcjax
from tests.helpers import runs
from tests.helpers.runs import (
    command_line,
    configured,
    prepare,
    start,
)
from tests.helpers.tiny_text import PLAIN, on_text, write_text
from tests.reference.golden import golden
from tests.reference.random_tensors import weights
from train import language
from train.config.base import as_json
from train.config.check import check
from train.data.text.documents import find_documents
from train.data.text.language import language_data
from train.data.text.vocabulary import Pieces
from train.engine.run_directory import create_directory, read_json
from train.models.serialization import module_as_json, module_from_json
from train.protocols.progressive import _drop
from train.runs.command import train_job
from train.runs.conclude import _metadata
from train.runs.finished import teacher
from train.tasks.language.objective import LanguageModel
from train.tasks.language.presets import PRESETS
from train.tasks.language.task import read_test_split
from train.tasks.metric import ACCURACY, LOSS
from train.validation import ConfigError


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "a.txt")


@pytest.fixture(scope="module")
def job(text):
    return prepare(on_text(text, **PLAIN, stride=5))


def flags(config):
    """Returns the command line of a configuration."""
    return command_line(config, PRESETS)


def main(monkeypatch, *arguments):
    """Runs the command line in this process."""
    runs.main(monkeypatch, *arguments, module=language)


# What a model is judged by.


@pytest.mark.slow
def test_loss_is_that_of_every_token_told_from_its_window(job):
    task, variables = job.task, job.state.variables
    tokens, stride, context = task.data.validation.tokens, 5, 12
    logits = jax.jit(task.classifier.logits)
    told = {}
    for first in range(0, len(tokens), stride):
        window = tokens[first : first + context]
        padded = np.pad(window, (0, context - len(window)))[None]
        probabilities = np.asarray(jax.nn.log_softmax(logits(variables, padded)))[0]
        for i in range(len(window)):
            at = first + i + 1
            if at < len(tokens):
                told.setdefault(at, probabilities[i, tokens[at]])
    assert len(told) == len(tokens) - 1
    scores = task.scores(variables)
    assert scores["loss"] == pytest.approx(-np.mean(list(told.values())), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert task.score(variables) == -scores["loss"] and 0 <= scores["accuracy"] <= 1
    stated = task.data.evaluation
    assert (stated["window"], stated["stride"]) == (12, 5)
    assert stated["note"].endswith("so that a token is predicted from the 8 to 12 before it.")


def test_a_lower_loss_is_better_and_a_higher_accuracy():
    low, high = ({"loss": x, "perplexity": math.exp(x), "accuracy": x} for x in (0.5, 0.75))
    facts = [{"validation": low}]
    assert _drop(LOSS, facts, {"validation": high}) == 0.25
    assert _drop(ACCURACY, facts, {"validation": high}) == -0.25
    assert LOSS.show(low) == "0.5000 (perplexity 1.649)" and ACCURACY.show(low) == "50.00 %"
    assert LOSS.show_drop(0.25) == "0.2500 nats above"
    assert ACCURACY.show_drop(0.25) == "25.00 points below"


def test_a_loss_beyond_floats_has_an_infinite_perplexity(job):
    assert job.task.classifier.scores(0.0, 1e4)["perplexity"] == math.inf


def test_a_checkpoint_finds_its_test_text_again(job):
    known = json.loads(json.dumps(_metadata(job.task)["data"]))
    again, want = read_test_split(known, None), job.task.data.test()
    for ours, theirs in zip(again.batch(np.arange(3)), want.batch(np.arange(3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(again) == len(want)
    module = module_from_json(known["module"])
    assert module == job.task.classifier.module and module_as_json(module) == known["module"]


def test_training_sees_the_training_text_alone(text, job):
    whole = text.read_text()
    decoded = job.task.data.vocabulary.decode(np.asarray(job.task.source.arrays))
    assert whole.startswith(decoded) and len(decoded) == pytest.approx(0.81 * len(whole), abs=2)
    documents = find_documents(str(text), validation=0.1, test=0.1)
    short = language_data(documents, job.task.data.vocabulary, 12, 5, 300)
    assert short.vocabulary.decode(short.train.tokens) == whole[:300]


def test_swiglu_blocks_are_gated_and_collapse(text):
    module = on_text(text, "shakespeare-swiglu").model.build(20)
    variables = jax.eval_shape(LanguageModel(module).init, jax.random.key(0))
    mlp = variables["params"]["block_1"]["mlp"]
    assert set(mlp) == {"gate", "up", "act", "down"}
    assert lcjax.find_sites(variables).paths == ("block_0/mlp/act", "block_1/mlp/act")
    deep, gated = (PRESETS[f"shakespeare-{name}"][1].model for name in ("small", "swiglu"))
    assert 2 * deep.mlp_hidden == pytest.approx(3 * gated.mlp_hidden, rel=0.01)


# Pretrained weights.


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A tiny GPT-2 as Hugging Face saves it, with a vocabulary of its own."""
    save = pytest.importorskip("safetensors.numpy").save_file
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("weights") / "gpt2"
    folder.mkdir()
    vocabulary = Pieces.trained(["the king and his fool walk in rain"] * 5, 280)
    (folder / "tokenizer.json").write_text(vocabulary.definition)
    shapes = golden()["gpt2"]["tensors"]
    tables = {"transformer.wte.weight": [vocabulary.size, 24], "transformer.wpe.weight": [16, 24]}
    save(weights(shapes | tables), folder / "model.safetensors")
    described = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_embd": 24,
        "n_head": 3,
        "vocab_size": vocabulary.size,
        "n_positions": 16,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def fine_tuning(text, folder, **fields):
    given = {"dataset": str(text), "validation": 0.1, "test": 0.1, "pretrained": str(folder)}
    return configured("gpt2", PRESETS, **given | {"context": 12} | PLAIN | fields)


def test_pretrained_weights_are_where_training_begins(text, pretrained):
    job = prepare(fine_tuning(text, pretrained))
    held = pytest.importorskip("safetensors.numpy").load_file(pretrained / "model.safetensors")
    np.testing.assert_array_equal(
        job.state.params["block_1"]["mlp"]["dense_0"]["kernel"],
        held["transformer.h.1.mlp.c_fc.weight"],
    )
    assert job.task.classifier.module.max_length == 16 and job.task.data.train.context == 12
    assert {site.slope for site in lcjax.find_sites(job.state.params)} == {0.0}
    assert module_from_json(job.task.data_spec["module"]) == job.task.classifier.module


# Bad input.

BAD = [
    ({"stride": 13}, "--stride is 13; expected 1 to the --context, 12"),
    ({"stride": 0}, "--stride is 0; expected 1 to the --context, 12"),
    ({"context": 0}, "--context is 0; expected at least 1"),
    ({"vocab_size": 100}, "--vocab-size is 100; expected at least 258"),
    (
        {"test": 0.6, "validation": 0.5},
        "--validation is 0.5 and --test 0.6; expected a sum below 1",
    ),
    ({"num_heads": 3}, "--num-heads is 3; expected a divisor of width 16"),
    ({"train_tokens": 0}, "--train-tokens is 0; expected at least 1"),
    ({"epochs": 0}, "--epochs is 0; expected a positive number"),
    ({"teacher_weight": 1.5}, r"--teacher-weight is 1.5; expected in \[0, 1\]"),
    ({"teacher_temperature": 0.0}, "--teacher-temperature is 0.0; expected a positive number"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_flag_out_of_range_is_named_with_its_value(text, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(on_text(text, **fields))
        _ = on_text(text, **fields).stride


WRONG = [
    ({"context": 600}, "--context is 600, but the text to validate has only"),
    ({"batch_size": 5000}, "--batch-size is 5000, but there are only .* examples to train on"),
    ({"train_tokens": 10**7}, "--train-tokens is 10,000,000, but there are only"),
    ({"train_tokens": 5}, "--context is 12, but the text to train on has only 5 tokens"),
    ({"vocabulary": "pretrained"}, "--vocabulary is pretrained; expected characters or pieces"),
    ({"dataset": "nowhere.txt"}, "nowhere.txt cannot be read"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_what_does_not_fit_is_an_error_and_nothing_is_written(
    text, tmp_path, monkeypatch, fields, message
):
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        main(monkeypatch, *flags(on_text(text, **fields, runs_dir=tmp_path / "runs")))
    assert list(tmp_path.iterdir()) == []


def test_a_pretrained_model_of_another_kind_is_an_error(text, pretrained):
    for fields, message in (
        ({"context": 17}, "--context is 17; expected at most 16, the context"),
        ({"vocabulary": "characters"}, "--vocabulary is characters; expected pretrained, like"),
        ({"pretrained": "no-such"}, "no-such: no such file, folder or installed"),
    ):
        with pytest.raises((ConfigError, FileNotFoundError), match=message):
            prepare(fine_tuning(text, pretrained, **fields))


def test_a_teacher_of_another_vocabulary_is_an_error(job, tmp_path):
    known = job.task.data_spec | {"vocabulary": "another"}
    metadata = _metadata(job.task) | {"data": known}
    lcjax.save(tmp_path / "deep", job.task.variables, metadata=metadata)
    shared = {"vocabulary": job.task.data_spec["vocabulary"]}
    with pytest.raises(ConfigError, match="was trained with {'vocabulary': 'another'}; expected "):
        teacher(tmp_path / "deep", shared)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_range_and_says_what_it_is(name):
    about, config = PRESETS[name]
    check(config)
    assert config.preset == name and about.endswith(".") and config.stride >= 1


# Whole runs.

VARIED = {"dropout": 0.1, "checkpoint_every": 3, "log_every": 1, "steps_per_dispatch": 2}


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    "protocol", ["penalty", "ramp", "anneal", "paper", "progressive", "fit-heal"]
)
def test_every_protocol_runs_from_the_command_line(protocol, text, tmp_path):
    gated = protocol in ("fit-heal", "progressive")
    preset = "shakespeare-swiglu" if gated else "shakespeare-small"
    short = {"last": 1, "max_gap": math.inf, "strength": 1.0}
    short |= {"count": 1} if protocol in ("fit-heal", "anneal") else {}
    short |= {"max_drop": 1.0} if gated else {}
    asked = {**VARIED, **short, "protocol": protocol, "name": "a", "runs_dir": tmp_path}
    process = start(*flags(on_text(text, preset, **asked)), module="train.language")
    said, complained = process.communicate()
    assert process.returncode == 0, complained
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["compact"]["restored"] == summary["compact"]["test"]
    assert set(summary["compact"]["test"]) == {"accuracy", "loss", "perplexity"}
    assert summary["collapsed"] and f"protocol {protocol}" in said
    assert summary["evaluation"]["stride"] == 6 and summary["metric"] == "loss"
    assert "windows of 12 tokens at a stride of 6" in said and "(perplexity " in said
    assert (tmp_path / "a" / "picture.png").is_file()


@pytest.mark.slow
@pytest.mark.promotes
def test_max_drop_is_in_nats(text, tmp_path):
    """What fit-heal takes is the most that costs no more than --max-drop of validation loss."""
    shared = {"protocol": "fit-heal", "count": None, "heal_epochs": 0, "epochs": 4}
    job = prepare(on_text(text, **shared, max_drop=0.02))
    create_directory(tmp_path / "a", as_json(job.task.config))
    result = train_job(job, tmp_path / "a")
    plan = result.extra["fit_heal"]["plan"]
    drops = [plan["steps"][0]["metric"] - step["metric"] for step in plan["steps"][1:]]
    taken = plan["num_taken"]
    assert all(drop <= 0.02 for drop in drops[:taken]) and all(d > 0.02 for d in drops[taken:])
    assert plan["steps"][0]["metric"] == -result.extra["fit_heal"]["deep_validation"]["loss"]
