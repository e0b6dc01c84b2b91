"""Trained variables become a folder like the one that they were loaded from, or nothing does."""

import itertools
import json
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.errors import WeightsError
from lcjax.folder import describe_folder, load_model, save_model
from lcjax.folder.fitting.forms import Form
from lcjax.folder.storage.compact_folder import CompactFolder
from lcjax.folder.storage.model_folder import read_model_folder
from tests.lcjax.folder.folders import (
    BERT,
    DEPTH,
    DISTILBERT,
    HIDDEN,
    LLAMA,
    MODERNBERT,
    ROBERTA,
    write_folder,
    write_forms,
)

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")

CONFIGS = {
    config["model_type"]: config for config in (LLAMA, BERT, ROBERTA, DISTILBERT, MODERNBERT)
}
DTYPES = ("float32", "bfloat16", "float16")
QUICK = {("llama", dtype) for dtype in DTYPES} | {(kind, "float16") for kind in CONFIGS}
KINDS_AND_DTYPES = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(CONFIGS, DTYPES)
]
FORMS = {
    "units and linear": [Form("units", 8), Form("linear", 0), None],
    "wide and constant": [Form("units", HIDDEN, True), Form("constant", 0), Form("units", 8, True)],
}


def _trained(variables, dtype=np.float32):
    """Variables with other values that the dtype can have; slopes stay 0."""
    rng = np.random.default_rng(2)

    def other(leaf):
        values = np.asarray(leaf) * 1.5 + 0.01 * rng.standard_normal(leaf.shape)
        return leaf if leaf.ndim == 0 else jnp.asarray(values.astype(dtype).astype(np.float32))

    return jax.tree.map(other, variables)


def _equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def _headers(folder):
    """What a reader sees of a folder's tensors apart from their values, in order."""
    tensors = read_model_folder(folder).tensors
    places = {
        name: (place.file.name, place.dtype, place.shape) for name, place in tensors.places.items()
    }
    metadata = {file.name: found for file, found in tensors.metadata.items()}
    return list(places.items()), metadata


def _others(folder):
    """The files that are not weights, config.json as its value."""
    files = (file for file in folder.iterdir() if file.suffix != ".safetensors")
    found = {file.name: file.read_bytes() for file in files if file.name != "README.md"}
    return found | {"config.json": json.loads(found["config.json"])}


def _check_saved(source, target, dtype):
    """Saves other values, and compares everything with the source or with these values."""
    trained = _trained(load_model(source)[1], dtype)
    save_model(target, trained, like=source)
    _equal(load_model(target)[1], trained)
    assert _headers(target) == _headers(source)
    ours, theirs = _others(target), _others(source)
    for index in (found.pop("model.safetensors.index.json", b"null") for found in (ours, theirs)):
        files = json.loads(index)
        assert files is None or files["metadata"]["total_size"] == read_model_folder(source).bytes
    assert ours == theirs


@pytest.mark.parametrize(("kind", "dtype"), KINDS_AND_DTYPES)
def test_saved_folder_has_the_values_and_all_else_of_the_source(kind, dtype, tmp_path):
    source = write_folder(tmp_path / "small", CONFIGS[kind], dtype=jnp.dtype(dtype))
    _check_saved(source, tmp_path / "trained", jnp.dtype(dtype))


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_folder_keeps_mixed_forms(kind, forms, tmp_path):
    source = write_forms(tmp_path / "mixed", CONFIGS[kind], FORMS[forms], dtype=np.float16)
    _check_saved(source, tmp_path / "trained", np.float16)
    assert (tmp_path / "trained" / "modeling_lcjax.py").is_file()


def test_unchanged_values_give_the_same_bytes(uniform, mixed, tmp_path):
    for source, _ in (uniform, mixed):
        save_model(tmp_path / source.name, load_model(source)[1], like=source)
        for file in source.glob("*.safetensors*"):
            assert (tmp_path / source.name / file.name).read_bytes() == file.read_bytes()


def test_tied_head_in_the_file_is_the_trained_embedding(tmp_path):
    """As Qwen3 0.6B has it; without one in the file there is none afterwards."""
    source = write_folder(tmp_path / "tied", LLAMA | {"tie_word_embeddings": True}, shards=1)
    file = source / "model.safetensors"
    tensors = safetensors_numpy.load_file(file)
    for copies in (True, False):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        kept = tensors if copies else {n: t for n, t in tensors.items() if n != "lm_head.weight"}
        safetensors_numpy.save_file(kept, file, metadata={"format": "pt"})
        trained, target = _trained(load_model(source)[1]), tmp_path / f"{copies}"
        save_model(target, trained, like=source)
        saved = safetensors_numpy.load_file(target / "model.safetensors")
        embedding = trained["params"]["embed"]["embedding"]
        np.testing.assert_array_equal(saved["model.embed_tokens.weight"], embedding)
        assert ("lm_head.weight" in saved) == copies
        if copies:
            np.testing.assert_array_equal(saved["lm_head.weight"], embedding)


def test_stacked_layers_are_saved_one_by_one(llama, tmp_path):
    trained = _trained(load_model(llama)[1])
    params = dict(trained["params"])
    blocks = [params.pop(f"block_{i}") for i in range(DEPTH)]
    params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    save_model(tmp_path / "trained", {"params": params}, like=llama)
    _equal(load_model(tmp_path / "trained")[1], trained)


def test_tensors_that_the_network_lacks_are_copied(bert, tmp_path):
    source = tmp_path / "pooled"
    shutil.copytree(bert, source)
    file = source / "model.safetensors"
    tensors = safetensors_numpy.load_file(file)
    tensors["pooler.dense.weight"] = np.arange(9, dtype=np.float32).reshape(3, 3)
    tensors["embeddings.position_ids"] = np.arange(64)[None]
    safetensors_numpy.save_file(tensors, file)
    save_model(tmp_path / "trained", _trained(load_model(source)[1]), like=source)
    saved = safetensors_numpy.load_file(tmp_path / "trained" / "model.safetensors")
    for name in ("pooler.dense.weight", "embeddings.position_ids"):
        np.testing.assert_array_equal(saved[name], tensors[name])


# The report and the card.


def test_report_and_card_are_carried_over_with_the_figures(uniform, tmp_path):
    source, report = uniform
    _, variables = load_model(source)
    first, second = {"steps": 20, "test": {"loss": 2.10444}}, {"steps": 5, "teacher": None}
    save_model(tmp_path / "once", variables, like=source, training=first)
    save_model(tmp_path / "twice", variables, like=tmp_path / "once", training=second)
    assert json.loads((tmp_path / "twice" / "lcjax_report.json").read_text()) == {
        **report,
        "training": [first, second],
    }
    text = describe_folder(tmp_path / "twice")
    before, shown = describe_folder(source).splitlines(), text.splitlines()
    assert "training    steps 20, test loss 2.104" in shown and "training    steps 5" in shown
    assert [line for line in shown if not line.startswith("training")] == before
    card, old = ((folder / "README.md").read_text() for folder in (tmp_path / "once", source))
    assert card.endswith(f"# The model card before training\n\n{old.strip()}\n")
    assert card.startswith("# llama-units, trained with lcjax\n") and "test loss 2.104\n" in card


def test_metadata_of_a_card_stay_first(llama, tmp_path):
    source = tmp_path / "small"
    shutil.copytree(llama, source)
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    save_model(tmp_path / "trained", load_model(source)[1], like=source)
    card = (tmp_path / "trained" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n\n# small, trained with lcjax\n")
    assert card.endswith("# The model card before training\n\n# A model\n")
    assert not (tmp_path / "trained" / "lcjax_report.json").exists()


@pytest.mark.parametrize("value", [np.float32(1), np.inf])
def test_figures_that_are_not_json_are_refused(value, uniform, tmp_path):
    variables = load_model(uniform[0])[1]
    with pytest.raises(ValueError, match="training: .* expected JSON: texts and finite numbers"):
        save_model(tmp_path / "out", variables, like=uniform[0], training={"loss": {"test": value}})
    assert list(tmp_path.iterdir()) == []


def test_damaged_report_is_an_error(uniform, tmp_path):
    source = tmp_path / "small"
    shutil.copytree(uniform[0], source)
    (source / "lcjax_report.json").write_text('{"training": 3}')
    with pytest.raises(ValueError, match=r"lcjax_report\.json, training: got number, expected an"):
        save_model(tmp_path / "trained", load_model(source)[1], like=source)
    assert not (tmp_path / "trained").exists()


# What cannot be saved.


def test_variables_of_another_network_are_refused(llama, tmp_path):
    _, variables = load_model(llama)
    params = variables["params"]
    narrow = dict(params["block_1"]["mlp"], up={"kernel": jnp.ones((16, 8))})
    wrong = params | {"block_1": params["block_1"] | {"mlp": narrow}, "more": {"bias": jnp.ones(2)}}
    del wrong["head"]
    with pytest.raises(WeightsError, match="not of this folder's network") as found:
        save_model(tmp_path / "trained", {"params": wrong}, like=llama)
    for line in (
        "! block_1/mlp/up/kernel: variables (16, 8), folder (16, 48)",
        "+ only in folder: head/kernel (16, 60)",
        "- only in variables: more/bias (2,)",
    ):
        assert line in str(found.value)
    with pytest.raises(WeightsError, match=r"only in folder: block_0/.* and 24 more"):
        save_model(tmp_path / "trained", {}, like=llama)
    assert list(tmp_path.iterdir()) == []


def test_slopes_are_refused(llama, tmp_path):
    _, variables = load_model(llama)
    block = variables["params"]["block_1"]
    mlp = block["mlp"] | {"act": {"slope": jnp.full(48, 0.5)}}
    params = variables["params"] | {"block_1": block | {"mlp": mlp}}
    with pytest.raises(WeightsError, match="block_1/mlp/act/slope: got a slope that is not 0"):
        save_model(tmp_path / "trained", {"params": params}, like=llama)


@pytest.mark.parametrize("value", [1e5, np.nan])
def test_values_that_the_dtype_lacks_are_refused(value, tmp_path):
    source = write_folder(tmp_path / "small", LLAMA, dtype=np.float16)
    _, variables = load_model(source)
    variables["params"]["head"]["kernel"] = (
        variables["params"]["head"]["kernel"].at[0, 0].set(value)
    )
    with pytest.raises(WeightsError, match=r"lm_head\.weight: got values that are not finite in f"):
        save_model(tmp_path / "trained", variables, like=source)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_paths_that_exist_or_are_inside_are_refused(llama, tmp_path):
    _, variables = load_model(llama)
    with pytest.raises(FileExistsError, match="the path exists; expected a new one"):
        save_model(tmp_path, variables, like=llama)
    with pytest.raises(ValueError, match="got a path inside of"):
        save_model(llama / "trained", variables, like=llama)


def test_interrupted_call_leaves_nothing(llama, tmp_path, monkeypatch):
    def interrupted(self):
        assert len(list(tmp_path.iterdir())) == 1  # the unfinished folder
        raise KeyboardInterrupt

    monkeypatch.setattr(CompactFolder, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "trained", load_model(llama)[1], like=llama)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_process_leaves_no_folder_and_nothing_of_its_values(llama, tmp_path):
    command = [sys.executable, "-m", "tests.lcjax.folder.killed_saving"]
    target = tmp_path / "trained"
    killed = subprocess.run([*command, llama, target], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".trained.lcjax-unfinished"]
    _, variables = load_model(llama)
    save_model(target, variables, like=llama)
    _equal(load_model(target)[1], variables)
    assert list(tmp_path.iterdir()) == [target]
