"""Folders of mixed forms are loaded whole, however their tensors are spelled, or not at all."""

import json
import re

import numpy as np
import pytest

import lcjax
from lcjax.errors import WeightsError
from lcjax.folder import collapse_model, load_model
from lcjax.folder.fitting.forms import Form, forms_to_json
from tests.lcjax.folder.folders import (
    BERT,
    DEPTH,
    HIDDEN,
    LLAMA,
    WIDTH,
    texts,
    weights_of,
    write_tokenizer,
)

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")


def _plain(name):
    return name


def _old_bert(name):
    """The spelling of the first checkpoints of BERT."""
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return "bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")


CASES = {
    "llama": (LLAMA, _plain, "model.layers.0.mlp.down_proj", r"layers\.0\.mlp\."),
    "bert": (BERT, _plain, "encoder.layer.0.output.dense", r"0\.(intermediate|output)\.dense"),
    "old bert": (
        BERT | {"architectures": ["BertForMaskedLM"]},
        _old_bert,
        "bert.encoder.layer.0.output.dense",
        r"0\.(intermediate|output)\.dense",
    ),
}


def _write(folder, case, form, tensors):
    """A folder in one file whose first MLP has a form, with these tensors in its place."""
    config, spelled, last, pattern = CASES[case]
    weights = {
        spelled(name): each
        for name, each in weights_of(config).items()
        if not re.search(pattern, name)
    }
    weights |= {f"{last}.{name}": each for name, each in tensors.items()}
    folder.mkdir()
    safetensors_numpy.save_file(weights, folder / "model.safetensors")
    forms = [form, *[Form("deep", HIDDEN)] * (DEPTH - 1)]
    (folder / "config.json").write_text(json.dumps(config | {"lcjax_forms": forms_to_json(forms)}))
    write_tokenizer(folder)
    return folder


BIAS = np.arange(1, WIDTH + 1, dtype=np.float32)
KERNEL = np.arange(WIDTH**2, dtype=np.float32).reshape(WIDTH, WIDTH)


@pytest.mark.parametrize("case", CASES)
def test_constant_is_loaded(case, tmp_path):
    folder = _write(tmp_path / "mixed", case, Form("constant", 0), {"bias": BIAS})
    (mlp,) = load_model(folder)[1]["params"]["block_0"]["mlp"].values()
    np.testing.assert_array_equal(mlp["bias"], BIAS)
    assert mlp.keys() == {"bias"}


@pytest.mark.parametrize("case", CASES)
def test_linear_map_is_loaded(case, tmp_path):
    tensors = {"weight": KERNEL, "bias": BIAS}
    folder = _write(tmp_path / "mixed", case, Form("linear", 0), tensors)
    (mlp,) = load_model(folder)[1]["params"]["block_0"]["mlp"].values()
    np.testing.assert_array_equal(mlp["bias"], BIAS)
    np.testing.assert_array_equal(mlp["kernel"], KERNEL.T)


@pytest.mark.parametrize(
    "form, tensors, message",
    [
        (Form("constant", 0), {}, r"down_proj\.bias: got none, by config\.json it has shape \(16,"),
        (Form("linear", 0), {"bias": BIAS}, r"down_proj\.weight: got none"),
        (Form("constant", 0), {"bias": BIAS[1:]}, r"down_proj\.bias: got \(15,\)"),
        (Form("units", 8), {"weight": KERNEL, "bias": BIAS}, r"(down|gate)_proj\.weight: got"),
    ],
)
def test_form_without_its_tensors_is_refused(form, tensors, message, tmp_path):
    folder = _write(tmp_path / "mixed", "llama", form, tensors)
    with pytest.raises(WeightsError, match=message):
        load_model(folder)


def test_folder_of_mixed_forms_is_not_collapsed_again(tmp_path):
    folder = _write(tmp_path / "mixed", "llama", Form("constant", 0), {"bias": BIAS})
    with pytest.raises(WeightsError, match="lcjax_forms: got a folder of mixed forms, expected"):
        collapse_model(folder, tmp_path / "out", texts(), budget=lcjax.Params(0.75))
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_two_tensors_of_one_leaf_are_refused(tmp_path):
    folder = _write(tmp_path / "mixed", "llama", Form("constant", 0), {"bias": BIAS})
    weights = safetensors_numpy.load_file(folder / "model.safetensors")
    weights["norm.weight"] = weights["model.norm.weight"] + 1
    safetensors_numpy.save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"norm\.weight are the same tensor; remove one"):
        load_model(folder)
