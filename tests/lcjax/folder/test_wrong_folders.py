"""Folders, texts and options that cannot be used: a clear error, and nothing written."""

import json
import re
from functools import partial

import numpy as np
import pytest

import lcjax
from lcjax.cli.command import main
from lcjax.errors import WeightsError
from lcjax.folder import FolderOptions, collapse_model
from lcjax.folder.data.texts import read_texts
from lcjax.planning.plan_file import PlanFile, PlannedSite
from tests.lcjax.folder.folders import (
    LLAMA,
    WORDS,
    texts,
    weights_of,
    write_folder,
    write_tokenizer,
)

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")
INDEX = "model.safetensors.index.json"
OPTIONS = FolderOptions(multiple_of=8)


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "deep", LLAMA)


def _edit(file, change):
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def _set(folder, **fields):
    _edit(folder / "config.json", lambda config: config.update(fields))


def _add_tensor(name, value, folder):
    tensors = weights_of(LLAMA) | {name: value}
    (folder / INDEX).unlink()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    safetensors_numpy.save_file(tensors, folder / "model.safetensors")


def _swap_in_index(folder):
    def change(index):
        files = index["weight_map"]
        files["lm_head.weight"] = files["model.norm.weight"]

    _edit(folder / INDEX, change)


QUANTIZED = np.zeros((2, 2), np.int32)
WRONG = {
    "no config": (lambda f: (f / "config.json").unlink(), "got no config.json"),
    "no index": (lambda f: (f / INDEX).unlink(), "expected model.safetensors, an index"),
    "missing shard": (
        lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
        r"these files are missing: model-00002-of-00002\.safetensors",
    ),
    "damaged shard": (
        lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 20),
        "expected a complete safetensors file",
    ),
    "other index": (_swap_in_index, r"differs from the files about lm_head\.weight"),
    "unknown architecture": (
        partial(_set, model_type="mamba"),
        r"got 'mamba', expected one of bert, .*llama.*qwen3",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
    "damaged tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "not a valid tokenizer",
    ),
    "larger vocabulary": (
        lambda f: write_tokenizer(f, [*WORDS, "one", "two"]),
        "got 62 tokens, expected at most 60, the rows of the embedding",
    ),
    "GPTQ": (
        partial(_set, quantization_config={"quant_method": "gptq", "bits": 4}),
        "got weights quantized by GPTQ",
    ),
    "AWQ": (
        partial(_set, quantization_config={"quant_method": "awq"}),
        "got weights quantized by AWQ",
    ),
    "bitsandbytes": (
        partial(_set, quantization_config={"quant_method": "bitsandbytes"}),
        "got weights quantized by bitsandbytes",
    ),
    "GPTQ file": (
        lambda f: (f / "quantize_config.json").write_text("{}"),
        r"quantize_config\.json: got weights quantized by GPTQ",
    ),
    "GPTQ tensor": (
        partial(_add_tensor, "model.layers.0.mlp.up_proj.qweight", QUANTIZED),
        r"up_proj\.qweight: got weights quantized by GPTQ or AWQ",
    ),
    "bitsandbytes tensor": (
        partial(_add_tensor, "model.layers.0.mlp.up_proj.weight.absmax", QUANTIZED),
        "got weights quantized by bitsandbytes",
    ),
    "integer weight": (
        partial(_add_tensor, "model.layers.0.mlp.up_proj.weight", QUANTIZED),
        "quantized by a method with I32 weights",
    ),
    "wrong width": (
        partial(_set, intermediate_size=40),
        r"gate_proj\.weight has shape \(48, 16\), by config\.json it has \(40, 16\)",
    ),
    "too few layers": (
        partial(_set, num_hidden_layers=2),
        r"model\.layers\.2\.\S+ is unexpected",
    ),
    "too many layers": (partial(_set, num_hidden_layers=4), r"layers\.3\.\S+ is missing"),
    "heads that do not divide": (partial(_set, num_attention_heads=5), "num_attention_heads|head"),
    "width of a wrong type": (partial(_set, hidden_size="16"), "hidden_size: got '16'"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_folder_is_refused(fault, source, tmp_path):
    break_it, message = WRONG[fault]
    break_it(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WeightsError, match=message):
        collapse_model(
            source, tmp_path / "out", texts(), budget=lcjax.Params(0.75), options=OPTIONS
        )
    assert sorted(tmp_path.rglob("*")) == before


ARGUMENTS = {
    "source": (["{d}/none", "{d}/out"], "none: expected the folder of a model"),
    "target exists": (["{d}/deep", "{d}"], "the path exists; expected a new one"),
    "target inside": (["{d}/deep", "{d}/deep/out"], r"got a path inside of \S+deep"),
    "budget of one": (["{d}/deep", "{d}/out", "--budget", "params=0.1"], "but with multiples of 8"),
    "budget of all": (["{d}/deep", "{d}/out", "--budget", "params=99999999"], "by all 48 units"),
    "no texts": (["{d}/deep", "{d}/out", "--calibrate", "{d}/empty.txt"], "got no text"),
    "no text file": (["{d}/deep", "{d}/out", "--calibrate", "{d}/none.txt"], "no such file"),
    "bad JSON lines": (["{d}/deep", "{d}/out", "--calibrate", "{d}/bad.jsonl"], "line 2"),
    "no field": (
        ["{d}/deep", "{d}/out", "--calibrate", "{d}/good.jsonl", "--text-field", "body"],
        "no text in the field 'body', expected one of its fields: text",
    ),
    "no set": (["{d}/deep", "{d}/out", "--calibrate", "tfds:none:train"], "no set none"),
    "small buffer": (["{d}/deep", "{d}/out", "--buffer", "1K"], r"got 1,024 bytes, expected at"),
}


@pytest.mark.parametrize("fault", ARGUMENTS)
def test_wrong_arguments_are_refused(fault, source, tmp_path, monkeypatch):
    arguments, message = ARGUMENTS[fault]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "good.jsonl").write_text('{"text": "w1 w2"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "w1 w2"}\n{"text": \n')
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    given = [each.format(d=tmp_path) for each in arguments]
    for name, value in (("--calibrate", str(tmp_path / "texts.txt")), ("--budget", "params=0.75")):
        given += [] if name in given else [name, value]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["collapse-model", *given, "--multiple-of", "8"])
    assert re.search(message, str(stopped.value)), stopped.value
    assert sorted(tmp_path.rglob("*")) == before


def test_texts_of_json_lines_are_read(tmp_path):
    (tmp_path / "set.jsonl").write_text('{"text": "one"}\n\n{"text": "two "}\n{"text": " "}\n')
    assert read_texts(str(tmp_path / "set.jsonl")) == ["one", "two"]
    (tmp_path / "set.txt").write_text("one\n\n two\nthree\n")
    assert read_texts(str(tmp_path / "set.txt"), most=2) == ["one", "two"]


def test_budget_that_all_units_meet_is_refused(source, tmp_path):
    """Also where their number is no multiple."""
    options = FolderOptions(multiple_of=32)
    with pytest.raises(ValueError, match="is met by all 48 units"):
        collapse_model(
            source, tmp_path / "out", texts(), budget=lcjax.Params(10**9), options=options
        )


@pytest.mark.parametrize("forms", ["units", "mixed"])
def test_plan_that_does_not_fit_is_refused(forms, source, tmp_path):
    options = FolderOptions(forms=forms, multiple_of=8)

    def collapse(sites):
        PlanFile(sites).save(tmp_path / "plan.json")
        collapse_model(
            source, tmp_path / "out", texts(), plan=tmp_path / "plan.json", options=options
        )

    fit = lcjax.Units(8)
    with pytest.raises(ValueError, match="got sites act_0, expected those of this model"):
        collapse({"act_0": PlannedSite(fit, (16, 48, 16))})
    with pytest.raises(ValueError, match=r"got widths \(16, 32, 16\), this model has \(16, 48"):
        collapse({"block_0/mlp/act": PlannedSite(fit, (16, 32, 16))})
    with pytest.raises(ValueError, match="a folder has no form of others"):
        collapse({"block_0/mlp/act": PlannedSite(lcjax.PerUnit(), (16, 48, 16))})
    if forms == "units":
        with pytest.raises(ValueError, match="layers differ in form"):
            collapse({"block_0/mlp/act": PlannedSite(fit, (16, 48, 16))})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "plan.json"]
