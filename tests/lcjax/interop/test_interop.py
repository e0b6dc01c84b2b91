"""Weights in and out: strictness, dtypes, damaged files, sources, lcjax's own files."""

import functools
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lcjax
from lcjax.interop import (
    WeightsError,
    load_safetensors,
    model_from_config,
    resolve_source,
    save_safetensors,
)
from lcjax.models import BERT, GPT2, MLP, VGG, MLPMixer, ViT
from tests.helpers.trees import random_chain, with_slopes
from tests.reference.cases import CASES
from tests.reference.golden import golden

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")

TINY_BERT = BERT(3, depth=2, width=8, num_heads=2, mlp_hidden=12, vocab_size=10, max_length=6)
ONE = jax.ShapeDtypeStruct((1, 1), jnp.int32)
CONFIG = dict(
    model_type="bert",
    architectures=["BertForSequenceClassification"],
    id2label={"0": "a", "1": "b", "2": "c"},
    num_hidden_layers=2,
    hidden_size=8,
    num_attention_heads=2,
    intermediate_size=12,
    vocab_size=10,
    max_position_embeddings=6,
    type_vocab_size=2,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)


@functools.cache
def _shapes():
    """Names and shapes in a file of TINY_BERT, written down by hand."""
    layer = {
        "attention.self.query": (8, 8),
        "attention.self.key": (8, 8),
        "attention.self.value": (8, 8),
        "attention.output.dense": (8, 8),
        "attention.output.LayerNorm": (8,),
        "intermediate.dense": (12, 8),
        "output.dense": (8, 12),
        "output.LayerNorm": (8,),
    }
    modules = {f"bert.encoder.layer.{i}.{name}": s for i in (0, 1) for name, s in layer.items()}
    modules |= {
        "bert.embeddings.LayerNorm": (8,),
        "bert.pooler.dense": (8, 8),
        "classifier": (3, 8),
    }
    shapes = {f"{name}.weight": shape for name, shape in modules.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    tables = {"word": 10, "position": 6, "token_type": 2}
    return shapes | {f"bert.embeddings.{k}_embeddings.weight": (n, 8) for k, n in tables.items()}


def _tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in _shapes().items()}


def _write(path, tensors):
    safetensors_numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


def _equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), first, second)


def test_load_safetensors_fills_every_leaf(tmp_path):
    tensors = _tensors()
    variables = load_safetensors(_write(tmp_path / "m.safetensors", tensors), TINY_BERT)
    shapes = jax.eval_shape(TINY_BERT.init, jax.random.key(0), ONE)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )
    block = variables["params"]["block_1"]
    layer = "bert.encoder.layer.1"
    by_hand = tensors[f"{layer}.intermediate.dense.weight"].T
    np.testing.assert_array_equal(block["mlp"]["dense_0"]["kernel"], by_hand)
    by_hand = tensors[f"{layer}.attention.self.query.weight"].reshape(2, 4, 8)  # heads first
    np.testing.assert_array_equal(block["attention"]["query"]["kernel"].transpose(1, 2, 0), by_hand)
    assert float(block["mlp"]["act_0"]["slope"]) == 0
    sums = sorted(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(variables) if leaf.size > 1)
    np.testing.assert_allclose(sums, sorted(float(np.abs(t).sum()) for t in tensors.values()), 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_load_safetensors_casts_to_float32(dtype, tmp_path):
    tensors = _tensors(dtype)
    variables = load_safetensors(_write(tmp_path / "m.safetensors", tensors), TINY_BERT)
    cast = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    _equal(variables, load_safetensors(_write(tmp_path / "f.safetensors", cast), TINY_BERT))


def test_load_safetensors_old_spellings_and_buffers(tmp_path):
    tensors = _tensors()
    want = load_safetensors(_write(tmp_path / "m.safetensors", tensors), TINY_BERT)

    def older(name):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta").removeprefix("bert.")

    renamed = {older(name): tensor for name, tensor in tensors.items()}
    renamed["embeddings.position_ids"] = np.arange(6)[None]
    _equal(load_safetensors(_write(tmp_path / "o.safetensors", renamed), TINY_BERT), want)


def test_load_safetensors_lists_all_differences(tmp_path):
    tensors = _tensors()
    del tensors["bert.pooler.dense.bias"]
    tensors["cls.predictions.bias"] = np.zeros(10, np.float32)
    tensors["classifier.weight"] = np.zeros((5, 8), np.float32)
    tensors["classifier.bias"] = np.zeros(3, np.int8)
    file = _write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(WeightsError) as error:
        load_safetensors(file, TINY_BERT)
    message = str(error.value)
    assert str(file) in message and "differ at 4 places" in message
    assert "- missing: pooler.dense.bias, for pooler/bias (8,)" in message
    assert "+ unexpected: cls.predictions.bias" in message
    assert "! classifier.weight: file (5, 8), model (3, 8)" in message
    assert "! classifier.bias: file I8, expected one of" in message


def test_load_safetensors_truncates_long_lists(tmp_path):
    file = _write(tmp_path / "m.safetensors", _tensors())
    with pytest.raises(WeightsError, match="differ at 38 places(.|\n)*and 18 more"):
        load_safetensors(file, TINY_BERT.clone(width=16))


def test_load_safetensors_init(tmp_path):
    file, key = _write(tmp_path / "m.safetensors", _tensors()), jax.random.key(3)
    model = TINY_BERT.clone(num_classes=5)
    variables = load_safetensors(file, model, init="head/*", key=key)
    want = load_safetensors(file, TINY_BERT)
    head = variables["params"].pop("head")
    del want["params"]["head"]
    _equal(variables, want)
    assert not head["bias"].any()
    assert head["kernel"].shape == (8, 5) and 0.2 < np.std(head["kernel"]) < 0.6  # 1 / sqrt(8)


def test_load_safetensors_init_of_missing_head(tmp_path):
    tensors = {k: v for k, v in _tensors().items() if "classifier" not in k}
    file = _write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(WeightsError, match="missing: classifier.bias, for head/bias"):
        load_safetensors(file, TINY_BERT)
    fresh = load_safetensors(file, TINY_BERT, init=["head/*"], key=jax.random.key(0))
    assert fresh["params"]["head"]["kernel"].shape == (8, 3)


def test_load_safetensors_ignore(tmp_path):
    file = _write(tmp_path / "m.safetensors", _tensors())
    bare = TINY_BERT.clone(num_classes=None, pool=None)
    with pytest.raises(WeightsError, match="unexpected: bert.pooler.dense.weight"):
        load_safetensors(file, bare, ignore="classifier.*")
    variables = load_safetensors(file, bare, ignore=["*pooler*", "classifier.*"])
    assert {"pooler", "head"}.isdisjoint(variables["params"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(ignore="decoder.*"), r"ignore: got 'decoder.\*', which matches no tensor"),
        (dict(init="tail/*", key=jax.random.key(0)), r"init: got 'tail/\*', which matches no leaf"),
        (dict(init="head/*"), "without a random key; give key="),
    ],
)
def test_load_safetensors_rejects_globs(asked, message, tmp_path):
    file = _write(tmp_path / "m.safetensors", _tensors())
    with pytest.raises(ValueError, match=message):
        load_safetensors(file, TINY_BERT, **asked)


def test_load_safetensors_rejects_duplicate_tensor(tmp_path):
    tensors = _tensors()
    tensors["pooler.dense.bias"] = tensors["bert.pooler.dense.bias"]
    with pytest.raises(WeightsError, match="are the same tensor"):
        load_safetensors(_write(tmp_path / "m.safetensors", tensors), TINY_BERT)


def test_load_safetensors_rejects_untied_head(tmp_path):
    shapes = golden()["gpt2"]["tensors"]
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    copy = tensors["transformer.wte.weight"].copy()
    model = CASES["gpt2"].model
    buffers = {"transformer.h.0.attn.bias": np.ones((1, 1, 12, 12), np.uint8)}
    same = _write(tmp_path / "same.safetensors", tensors | buffers | {"lm_head.weight": copy})
    _equal(
        load_safetensors(same, model),
        load_safetensors(_write(tmp_path / "none.safetensors", tensors), model),
    )
    other = _write(tmp_path / "other.safetensors", tensors | {"lm_head.weight": copy + 1})
    with pytest.raises(WeightsError, match="lm_head.weight: differs from transformer.wte.weight"):
        load_safetensors(other, model)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_load_safetensors_rejects_truncated_file(keep, tmp_path):
    whole = _write(tmp_path / "m.safetensors", _tensors()).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:keep])
    with pytest.raises(WeightsError, match="cut.safetensors: expected a complete safetensors file"):
        load_safetensors(cut, TINY_BERT)


def test_load_safetensors_rejects_other_files(tmp_path):
    other = tmp_path / "pytorch_model.bin"
    other.write_bytes(b"PK\x03\x04 a zip archive that holds pickles " * 20)
    with pytest.raises(WeightsError, match="pytorch_model.bin: expected a complete safet"):
        load_safetensors(other, TINY_BERT)
    unknown = _write(tmp_path / "u.safetensors", {"encoder.weight": np.ones(3)})
    with pytest.raises(WeightsError, match="got encoder.weig.*the weights of one of BERT"):
        load_safetensors(unknown, TINY_BERT)


def test_load_safetensors_rejects_other_architecture(tmp_path):
    file = _write(tmp_path / "m.safetensors", _tensors())
    with pytest.raises(WeightsError, match="of a BERT .* Hugging Face, expected .* GPT2"):
        load_safetensors(file, GPT2.from_preset("124M"))
    with pytest.raises(TypeError, match="a MLP, expected one of BERT .*, Decoder .*, GPT2"):
        load_safetensors(file, MLP((3, 2)))
    with pytest.raises(TypeError, match="got no model for another library's file"):
        load_safetensors(file)


def test_load_safetensors_rejects_leaf_without_tensor(tmp_path):
    file = _write(tmp_path / "m.safetensors", {"features.0.weight": np.ones((4, 3, 3, 3))})
    model = VGG(5, stages=((4,),), grid=1, hidden=(8,), classifier_norm="batch")
    with pytest.raises(WeightsError, match="mlp/norm_0/.*: the VGG of torchvision has no such"):
        load_safetensors(file, model)


def _folder(path, config=CONFIG, **tensors):
    path.mkdir(exist_ok=True)
    _write(path / "model.safetensors", tensors or _tensors())
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_load_safetensors_folder_with_config(tmp_path):
    folder = _folder(tmp_path / "bert")
    assert model_from_config(folder, dropout=0.1) == TINY_BERT.clone(
        activation=model_from_config(folder).activation, dropout=0.1
    )
    variables = load_safetensors(folder, model_from_config(folder))
    _equal(variables, load_safetensors(folder / "model.safetensors", TINY_BERT))


def test_load_safetensors_rejects_config_mismatch(tmp_path):
    folder = _folder(tmp_path / "bert", CONFIG | dict(num_attention_heads=4, hidden_act="relu"))
    with pytest.raises(WeightsError) as error:
        load_safetensors(folder, TINY_BERT.clone(epsilon=1e-6))
    message = str(error.value)
    assert "differ at 3 places" in message
    assert "! num_heads: config.json 4, model 2" in message
    assert "! epsilon: config.json 1e-12, model 1e-06" in message
    assert "! activation: config.json" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model_type="phi3"), "got 'phi3', expected one of BERT .*, Decoder .*llama.*"),
        (dict(hidden_act="mish"), "hidden_act: got 'mish', expected one of gelu"),
        (
            dict(position_embedding_type="relative_key"),
            "got 'relative_key', expected 'absolute'",
        ),
        (
            dict(model_type="gpt2", scale_attn_by_inverse_layer_idx=True),
            "idx: got True, expected False",
        ),
        (dict(model_type="vit", qkv_bias=False), "qkv_bias: got False, expected True"),
    ],
)
def test_model_from_config_rejects_other_models(change, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        model_from_config(_folder(tmp_path / "other", CONFIG | change))


def test_model_from_config_rejects_invalid_json(tmp_path):
    folder = _folder(tmp_path / "bert")
    for text, message in (("{", "config.json is not valid JSON"), ("[1]", "got a JSON array, exp")):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=message):
            load_safetensors(folder, TINY_BERT)
    (folder / "config.json").unlink()
    load_safetensors(folder, TINY_BERT)
    with pytest.raises(WeightsError, match="expected a config.json in it; build the model with"):
        model_from_config(folder)


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("vit_tiny_patch16_224", ViT.from_preset("Ti/16", num_classes=7)),
        ("deit_small_patch16_224", ViT.from_preset("S/16", num_classes=7)),
        ("vit_large_patch32_384.orig_in21k", ViT.from_preset("L/32", num_classes=7)),
        ("mixer_b16_224", MLPMixer.from_preset("B/16", num_classes=7)),
    ],
)
def test_model_from_config_of_timm(architecture, model, tmp_path):
    folder = _folder(tmp_path / "timm", dict(architecture=architecture, num_classes=7))
    assert model_from_config(folder).clone(activation=model.activation) == model


def test_load_safetensors_index_of_several_files(tmp_path):
    tensors = _tensors()
    want = load_safetensors(_write(tmp_path / "m.safetensors", tensors), TINY_BERT)
    folder, names = tmp_path / "shards", sorted(tensors)
    folder.mkdir()
    files = {name: f"model-0000{1 + (i > 20)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        _write(folder / file, {k: v for k, v in tensors.items() if files[k] == file})
    with pytest.raises(WeightsError, match="got model-00001-of-00002.safe.*, expected model.safe"):
        load_safetensors(folder, TINY_BERT)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    _equal(load_safetensors(folder, TINY_BERT), want)
    (folder / files[names[-1]]).unlink()
    with pytest.raises(WeightsError, match="these files are missing: model-00002-of-00002"):
        load_safetensors(folder, TINY_BERT)


def test_resolve_source_installed_package(tmp_path, monkeypatch):
    _folder(tmp_path / "tiny_bert")
    info = tmp_path / "tiny_bert-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.0\n")
    files = ("model.safetensors", "config.json")
    (info / "RECORD").write_text("".join(f"tiny_bert/{file},,\n" for file in files))
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_source("tiny-bert") == tmp_path / "tiny_bert"
    _equal(
        load_safetensors("tiny-bert", TINY_BERT),
        load_safetensors(tmp_path / "tiny_bert/model.safetensors", TINY_BERT),
    )
    with pytest.raises(WeightsError, match="package numpy: got none, expected one folder of"):
        resolve_source("numpy")


def test_resolve_source_hugging_face_repository(tmp_path, monkeypatch):
    folder, asked = _folder(tmp_path / "snapshot"), []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    load_safetensors("owner/tiny-bert-v1.5", TINY_BERT)
    ((name, patterns),) = asked
    assert name == "owner/tiny-bert-v1.5" and "*.safetensors" in patterns
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="owner/tiny-bert-v1.5: no such path .*install 'hugg"):
        resolve_source("owner/tiny-bert-v1.5")


@pytest.mark.parametrize("source", ["there/no.safetensors", "no-such-package-0", "a/b/c", "?"])
def test_resolve_source_rejects_unknown_names(source):
    with pytest.raises(FileNotFoundError, match="no such file, folder or installed package"):
        load_safetensors(source, TINY_BERT)


def test_load_safetensors_without_package_names_the_extra(tmp_path, monkeypatch):
    file = _write(tmp_path / "m.safetensors", _tensors())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'lcjax\[interop\]'"):
        load_safetensors(file, TINY_BERT)


@functools.cache
def _loaded(name):
    """Variables of a small network with slopes that are not 0, as training leaves them."""
    case = CASES[name]
    inputs = (x[:1] for x in case.inputs)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(case.model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.5, 1, a.shape), a.dtype), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_save_safetensors_roundtrip_deep_and_compact(name, tmp_path):
    model, deep = CASES[name].model, _loaded(name)
    some = str(lcjax.find_sites(deep)[-1].path)
    compact, _ = lcjax.collapse(with_slopes(deep, {some: 1.0}), sites=[some])
    for i, variables in enumerate((deep, compact)):
        save_safetensors(tmp_path / f"{i}.safetensors", variables)
        for known in (None, model):
            _equal(load_safetensors(tmp_path / f"{i}.safetensors", known), variables)


def test_save_safetensors_roundtrip_dtypes_and_empty_dicts(tmp_path):
    dtypes = "bool int8 int32 uint16 int64 float16 bfloat16 float32 float64 complex64".split()
    tree = {
        name: {
            str(i): np.ones(shape, jnp.dtype(name)) for i, shape in enumerate([(), (0, 2), (3,)])
        }
        for name in dtypes
    }
    tree |= {"params": {}, "nothing": {"here": {}}}
    tree["float32"]["odd"] = np.array([-0.0, np.inf, 1e-45, 3.0], np.float32)[::2]
    path = tmp_path / "new" / "folder" / "t.safetensors"
    save_safetensors(path, tree)
    back = load_safetensors(path)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert [(a.dtype, a.shape, np.asarray(a).tobytes()) for a in jax.tree.leaves(back)] == [
        (a.dtype, a.shape, a.tobytes()) for a in jax.tree.leaves(tree)
    ]
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]


def test_load_safetensors_checks_native_file_against_model(tmp_path):
    file = tmp_path / "bert.safetensors"
    deep = _loaded("bert_classifier")
    model = CASES["bert_classifier"].model
    save_safetensors(file, deep)
    with pytest.raises(
        WeightsError, match=r"! params/head/bias: the file \(3,\) float32, the model"
    ):
        load_safetensors(file, model.clone(num_classes=4))
    with pytest.raises(WeightsError, match="only in the file: params/head/bias"):
        load_safetensors(file, model.clone(num_classes=None))
    with pytest.raises(WeightsError, match="only in the model: params/block_2/norm_1/bias"):
        load_safetensors(file, model.clone(depth=3))
    with pytest.raises(WeightsError, match="cannot run these variables: .*the kernel is 48 wide"):
        load_safetensors(file, model.clone(mlp_hidden=40))
    with pytest.raises(ValueError, match="got init or ignore for a file of lcjax"):
        load_safetensors(file, model, init="head/*", key=jax.random.key(0))


def test_save_safetensors_rejects_paths_and_leaves(tmp_path):
    _, variables = random_chain((4, 3), 5)
    path = tmp_path / "t.safetensors"
    save_safetensors(path, variables)
    with pytest.raises(FileExistsError, match="already exists; expected a new path"):
        save_safetensors(path, variables)
    other = tmp_path / "other.safetensors"
    for tree, kind, message in (
        ({"a/b": np.ones(2)}, ValueError, "got the keys"),
        ([np.ones(2)], TypeError, "got the keys"),
        (np.ones(2), ValueError, "got the keys"),
        ({"a": np.ones(2, np.complex128)}, TypeError, "expected a dtype that safetensors supports"),
        ({"a": "text"}, TypeError, "a: got str, expected an array"),
    ):
        with pytest.raises(kind, match=message):
            save_safetensors(other, tree)
        assert not other.exists()
