"""Runs, texts and tokenizers of any origin: one error, nothing run or written."""

import dataclasses
import json
import os
import sys

import jax
import jax.numpy as jnp
import pytest

import lcjax
from lcjax.models import MLP
from tests.helpers.hostile import NO_JSON, NO_OBJECT, WRONG, at, pipe, safe, sparse
from tests.helpers.tiny_bert import make_folder
from train import distill, sentiment
from train.config.base import DistillationConfig, InitConfig, as_json
from train.config.protocol import PenaltyProtocolConfig
from train.data.dataset import DataError
from train.data.spec import ALL
from train.data.text.documents import find_documents
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import find_texts
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import RunError, create_directory, read_json
from train.runs import finished
from train.runs.student import student
from train.tasks.image.presets import PRESETS
from train.validation import ConfigError

NOT_JSON = {name: NO_JSON[name] for name in NO_JSON if name not in ("nan", "minus infinity")}
CONFIG = as_json(PRESETS["digits-mlp"][1])


def refused(call, kind=ValueError, match="."):
    with pytest.raises(kind, match=match) as error:
        call()
    safe(error.value)


def _run(path, config=CONFIG):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


# A run's configuration.


@pytest.mark.parametrize("name", [*NOT_JSON, *NO_OBJECT])
def test_json_that_is_none(name, tmp_path):
    run = _run(tmp_path / "run")
    (run / "config.json").write_bytes((NOT_JSON | NO_OBJECT)[name])
    refused(lambda: student(run), ValueError, "config.json")
    refused(lambda: read_json(run / "config.json"), RunError)


@pytest.mark.parametrize("wrong", [*WRONG.values()], ids=WRONG)
def test_fields_of_a_configuration(wrong, tmp_path):
    run = _run(tmp_path / "run")
    legal = 0
    paths = [[key] for key in ("preset", "data", "model", "optimizer", "run")]
    paths += [[part, key] for part in ("data", "model", "optimizer") for key in CONFIG[part]]
    paths += [["run", "seed"], ["run", "steps_per_dispatch"]]
    for keys in paths:
        (run / "config.json").write_text(json.dumps(at(CONFIG, keys, wrong)))
        try:
            config = student(run)
        except ValueError as error:
            safe(error)
        else:
            legal += 1
            old = CONFIG[keys[0]] if len(keys) == 1 else CONFIG[keys[0]][keys[1]]
            fits = type(wrong) is type(old) or {type(wrong), type(old)} <= {int, float}
            assert fits or old is None or wrong is None, f"{keys} = {wrong!r} gave {config}"
            assert keys == ["run"] or not isinstance(wrong, dict | list), (
                f"{keys} = {wrong!r} gave {config}"
            )
    assert legal < len(paths) / 2


def test_a_foreign_run_says_what_it_trained_and_nothing_else(tmp_path):
    foreign = at(CONFIG, ["run"], CONFIG["run"] | {
        "runs_dir": str(tmp_path / "elsewhere"), "seed": 7, "name": "x", "overwrite": True,
        "resume": True,
    })  # fmt: skip
    foreign["devices"] |= {
        "coordinator": "192.0.2.1:1234", "distributed": True, "num_processes": 2, "process_id": 1,
        "mesh": "data=64",
    }  # fmt: skip
    foreign["protocol"] = {"protocol": "fit-heal"}
    foreign["init"] |= {"deep": "/other/run"}
    foreign["distillation"] |= {"teacher": "/other/run"}
    foreign["data"] |= {"data_dir": str(tmp_path / "elsewhere"), "batch_size": 16}
    foreign["model"] |= {"hidden": [8, 4]}
    run = _run(tmp_path / "run", foreign)
    config = student(run)
    default = PRESETS["digits-mlp"][1]
    assert config.run == dataclasses.replace(type(config.run)(), seed=7, steps_per_dispatch=50)
    assert config.devices == default.devices and config.data.data_dir is None
    assert config.data.batch_size == 16 and config.model.hidden == (8, 4)
    assert config.protocol == PenaltyProtocolConfig()
    assert config.init == InitConfig(collapsed_from=run)
    assert config.distillation == DistillationConfig(teacher=run)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_the_command_refuses_in_one_line(tmp_path, monkeypatch):
    run = _run(tmp_path / "run", at(CONFIG, ["data", "batch_size"], "\x1b[31mmany\n"))
    monkeypatch.setattr(sys, "argv", ["train.distill", str(run)])
    with pytest.raises(SystemExit, match="error: .*data.batch_size is ") as end:
        distill.main()
    safe(end.value.code)
    assert "\n" not in end.value.code


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
def test_a_configuration_that_is_no_file(make, tmp_path):
    run = _run(tmp_path / "run")
    (run / "config.json").unlink()
    make(run / "config.json")
    refused(lambda: student(run))


# A run's summary, metrics and checkpoints.


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_a_summary_that_names_no_sites(wrong, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(at({"collapsed": []}, ["collapsed"], wrong)))
    refused(lambda: finished.new_compact_variables(tmp_path, {}, jax.random.key(0)), ConfigError)


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b'{"step": "1"}', b'{"step": 1, "a": "b"}', b"\xff", b'{"step": 1']
)
def test_metrics_that_are_none(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "a": NaN}\n' + line + b'\n{"step":')
    refused(lambda: read_metrics(tmp_path), ValueError, "metrics.jsonl, line 2")


METADATA = {
    "kind": "image",
    "model": {"kind": "mlp", "hidden": [3], "activation": "relu"},
    "data": {"dataset": "digits", "image_size": None, "num_classes": 2, "mean": [0.5],
             "std": [0.2], "image_shape": [8, 8, 1], "class_names": ["a", "b"]},
}  # fmt: skip


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_metadata_of_a_checkpoint(wrong, tmp_path, monkeypatch):
    paths = [[key] for key in METADATA]
    paths += [["data", key] for key in METADATA["data"]]
    paths += [["model", key] for key in METADATA["model"]]
    for keys in paths:
        given = at(METADATA, keys, wrong)
        monkeypatch.setattr(lcjax, "read_metadata", lambda path, given=given: given)
        if keys[-1] == "dataset" and isinstance(wrong, str) or keys[-1] == "image_size":
            continue
        if keys[-1] in ("class_names", "image_shape") and wrong is ...:
            continue
        if keys[-1] == "num_classes" and wrong == 4 or keys == ["model", "activation"]:
            continue
        refused(lambda: finished.classifier_of(tmp_path, needs=ALL))
    monkeypatch.setattr(lcjax, "read_metadata", lambda path: METADATA)
    assert finished.classifier_of(tmp_path)[0].module.features == (3, 2)


def test_a_text_checkpoint_without_its_tokenizer(tmp_path, monkeypatch):
    model = MLP((3, 2))
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    data = {"class_names": ["a", "\x1b[31m"], "module": {"class": "os.system"}}
    for given in (data, data | {"lengths": [10**12], "tokenizer": "{}"}, {}, []):
        path = tmp_path / str(len(os.listdir(tmp_path)))
        lcjax.save(path, variables, metadata={"kind": "text", "model": {}, "data": given})
        monkeypatch.setattr(sys, "argv", ["train.sentiment", "predict", str(path), "a text"])
        with pytest.raises(SystemExit, match="error: .*not those of a training run") as end:
            sentiment.main()
        safe(end.value.code)


# Texts.

ROWS = "good film\tpos\nbad film\tneg\n" * 10


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_are_no_text(mark, ends, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes((mark + "text\tlabel\n" + ROWS).replace("\n", ends).encode())
    found = find_texts(str(path))
    assert found.class_names == ("neg", "pos") and len(found.read("train")) == 16
    assert not any("\ufeff" in text or "\r" in text for text in found.read("train").texts)
    (tmp_path / "a.txt").write_bytes((mark + "one text\n" * 99).replace("\n", ends).encode())
    documents = find_documents(str(tmp_path / "a.txt"), validation=0.1, test=0.1)
    assert documents.train[0].startswith("one text\none text\n")


TEXTS = {
    "utf-16": ROWS.encode("utf-16"),
    "utf-16 without a mark": ROWS.encode("utf-16-le"),
    "utf-16 big": b"\xfe\xff" + ROWS.encode("utf-16-be"),
    "utf-32": ROWS.encode("utf-32"),
    "latin-1": ROWS.replace("bad", "b\xe4d").encode("latin-1"),
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "a zero": ROWS.encode() + b"a\0b\tneg\n",
    "empty": b"",
    "a mark alone": b"\xef\xbb\xbf",
    "blank": b" \n\t\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_text(name, tmp_path):
    for path in (tmp_path / "a.tsv", tmp_path / "a.txt"):
        path.write_bytes(TEXTS[name])
    refused(lambda: find_texts(str(tmp_path / "a.tsv")), DataError, "a.tsv")
    find = lambda: find_documents(str(tmp_path / "a.txt"), validation=0.1, test=0.1)
    refused(find, DataError, "a.txt")


@pytest.mark.parametrize("text", ["a\tb\tc\n", "a\n", "\tb\n", "a\t\n", "a,b\n",
                                  "\x1b[31m\n"])  # fmt: skip
def test_lines_that_are_no_rows(text, tmp_path):
    (tmp_path / "a.tsv").write_text(ROWS + text)
    refused(lambda: find_texts(str(tmp_path / "a.tsv")), DataError, "line 21")


@pytest.mark.parametrize("make", [lambda path: sparse(path, 2**40), pipe, os.mkdir])
def test_texts_that_are_no_files(make, tmp_path):
    for path in (tmp_path / "a.tsv", tmp_path / "a.txt"):
        make(path)
    refused(lambda: find_texts(str(tmp_path / "a.tsv")), DataError, "a.tsv")
    find = lambda: find_documents(str(tmp_path / "a.txt"), validation=0.1, test=0.1)
    refused(find, DataError, "a.txt")


# Tokenizers.


@pytest.fixture(scope="module")
def definition(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("bert") / "tiny")
    return json.loads((folder / "tokenizer.json").read_text())


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT, "an object"])
def test_a_tokenizer_that_is_none(name, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((NO_JSON | NO_OBJECT | {"an object": b"{}"})[name])
    refused(lambda: Tokenizer.of(tmp_path, 8).encode(["a"]), DataError, "tokenizer.json")


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_parts_of_a_tokenizer(wrong, definition, tmp_path):
    paths = [["model"], ["model", "vocab"], ["model", "unk_token"], ["added_tokens"],
             ["added_tokens", 0, "id"], ["model", "vocab", "film"], ["normalizer"],
             ["pre_tokenizer"], ["post_processor"], ["version"]]  # fmt: skip
    for keys in paths:
        (tmp_path / "tokenizer.json").write_text(json.dumps(at(definition, keys, wrong)))
        try:
            tokens, _ = Tokenizer.of(tmp_path, 8).encode(["a film"])
        except DataError as error:
            safe(error)
        else:
            assert len(tokens[0]) <= 8


def test_a_taken_runs_configuration_is_read_with_bounds(tmp_path):
    create_directory(tmp_path / "run", CONFIG)
    assert read_json(tmp_path / "run" / "config.json") == CONFIG
