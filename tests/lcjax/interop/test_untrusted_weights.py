"""Weights and configs of any origin: each fault is one WeightsError, and nothing is loaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.interop import WeightsError, load_safetensors, model_from_config, save_safetensors
from lcjax.models import GPT2
from tests.helpers.hostile import NO_JSON, NO_OBJECT, WRONG, at, pipe, safe, sparse
from tests.lcjax.interop.test_interop import CONFIG, TINY_BERT, _folder, _shapes, _tensors

library = pytest.importorskip("safetensors.numpy", reason="extra interop")

GPT2_CONFIG = dict(
    model_type="gpt2", n_layer=1, n_embd=4, n_head=2, vocab_size=5, n_positions=3,
    activation_function="gelu_new", layer_norm_epsilon=1e-5,
)  # fmt: skip
VIT_CONFIG = dict(
    model_type="vit", patch_size=2, num_hidden_layers=1, hidden_size=4, num_attention_heads=2,
    intermediate_size=8, hidden_act="gelu", layer_norm_eps=1e-12,
)  # fmt: skip
TIMM_CONFIG = dict(architecture="vit_tiny_patch16_224", num_classes=10, global_pool="token")
MIXER_CONFIG = dict(architecture="mixer_s32_224", num_classes=10, global_pool="avg")


def refused(call, match="."):
    with pytest.raises(WeightsError, match=match) as error:
        call()
    safe(error.value)


@pytest.fixture
def folder(tmp_path):
    return _folder(tmp_path / "bert")


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_load_safetensors_rejects_invalid_json(file, name, folder):
    (folder / file).write_bytes((NO_JSON | NO_OBJECT)[name])
    refused(lambda: load_safetensors(folder, TINY_BERT), file)


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_load_safetensors_rejects_special_and_large_json_files(file, make, folder):
    (folder / file).unlink(missing_ok=True)
    make(folder / file)
    refused(lambda: load_safetensors(folder, TINY_BERT), file)


def _legal(config, key, wrong):
    """Tells whether a config may have this in the place of a field's value."""
    value = config[key]
    if key == "id2label":
        return wrong in (None, ..., {"a": {}})
    if wrong == 0.5:
        return isinstance(value, float)
    if key == "num_classes" and wrong is None:
        return True
    return wrong == 4 and isinstance(value, int)


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
@pytest.mark.parametrize("config", [CONFIG, GPT2_CONFIG, VIT_CONFIG, TIMM_CONFIG, MIXER_CONFIG])
def test_model_from_config_rejects_wrong_types(config, wrong, tmp_path):
    for key in config.keys() - {"architectures", "global_pool"}:
        (tmp_path / "config.json").write_text(json.dumps(at(config, [key], wrong)))
        if _legal(config, key, wrong):
            model_from_config(tmp_path)
        else:
            refused(lambda: model_from_config(tmp_path))


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (CONFIG, dict(is_decoder=True)),
        (CONFIG, dict(add_cross_attention=True)),
        (CONFIG, dict(position_embedding_type="relative_key_query")),
        (CONFIG, dict(pruned_heads={"0": [1]})),
        (CONFIG, dict(is_encoder_decoder=True)),
        (CONFIG, dict(quantization_config={"bits": 4})),
        (GPT2_CONFIG, dict(add_cross_attention=True)),
        (GPT2_CONFIG, dict(tie_word_embeddings=False)),
        (GPT2_CONFIG, dict(scale_attn_weights=False)),
        (GPT2_CONFIG, dict(scale_attn_by_inverse_layer_idx=True)),
        (GPT2_CONFIG, dict(n_head=3)),
        (VIT_CONFIG, dict(qkv_bias=False)),
        (TIMM_CONFIG, dict(global_pool="avg")),
        (TIMM_CONFIG, dict(model_args={"class_token": False})),
        (MIXER_CONFIG, dict(model_args={"act_layer": "relu"})),
        (CONFIG, dict(num_hidden_layers=10**6)),
        (CONFIG, dict(model_type="electra")),
    ],
    ids=range(17),
)
def test_model_from_config_rejects_other_functions(config, change, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    model_from_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    said = "config.json: got" if "model_type" in change else next(iter(change))
    refused(lambda: model_from_config(tmp_path), said)
    if config is CONFIG:  # the weights alone fit; the config beside them does not
        folder = _folder(tmp_path / "bert", config | change)
        refused(lambda: load_safetensors(folder, TINY_BERT))


def test_model_from_config_accepts_disabled_features(tmp_path):
    off = dict(is_decoder=False, pruned_heads={}, quantization_config=None, num_labels=3)
    config = CONFIG | off | dict(id2label=None, position_embedding_type=None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_from_config(tmp_path).num_classes == 3


@pytest.mark.parametrize(
    "files",
    [
        "../bert/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "\0",
        "model\x1b.safetensors", "C:\\model.safetensors/..", "config.json", 3, None, ["a"], {},
    ],
    ids=repr,
)  # fmt: skip
def test_load_safetensors_rejects_index_outside_folder(files, folder):
    index = {"weight_map": {"a": "model.safetensors", "b": files}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: load_safetensors(folder, TINY_BERT), "weight_map: got")


@pytest.mark.parametrize("wrong", [*WRONG.values(), [], {}, ...], ids=repr)
def test_load_safetensors_rejects_index_without_map(wrong, folder):
    if wrong == WRONG["object"]:
        return
    index = at({"weight_map": {}}, ["weight_map"], wrong)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: load_safetensors(folder, TINY_BERT), "weight_map")


def _raw(path, header, data=b"", length=None):
    """Writes a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def _one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"null", DEEP := b'{"a":' * 10_000, b"\xff" * 20,
        {"a": _one(shape=[10**18])}, {"a": _one(shape=[-1])}, {"a": _one(shape="x")},
        {"a": _one(offsets=[0, 10**18])}, {"a": _one(offsets=[8, 0])}, {"a": _one(dtype="X1")},
        {"a": _one(shape=[2**40, 2**40])}, {"a": 3}, {"a": {}}, {"__metadata__": {"a": 3}},
        {"__metadata__": []}, {"a\x1b[31m": _one(), "b": _one(offsets=[4, 12])},
    ],
    ids=range(18),
)  # fmt: skip
def test_load_safetensors_rejects_forged_headers(header, tmp_path):
    refused(lambda: load_safetensors(_raw(tmp_path / "a.safetensors", header, bytes(8)), TINY_BERT))


@pytest.mark.parametrize("length", [0, 7, 2**31, 2**63, 2**64 - 1])
def test_load_safetensors_rejects_forged_lengths(length, tmp_path):
    path = _raw(tmp_path / "a.safetensors", {"a": _one()}, bytes(8), length)
    refused(lambda: load_safetensors(path, TINY_BERT), "expected a complete safetensors file")


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
def test_load_safetensors_rejects_special_files(make, folder):
    (folder / "model.safetensors").unlink()
    make(folder / "model.safetensors")
    refused(lambda: load_safetensors(folder, TINY_BERT))


@pytest.mark.parametrize("note", [
    "", "3", "[]", "{}", '{"empty": 3}', '{"empty": [3]}', '{"empty": [[1000000000]]}',
    '{"empty": [[]]}', '{"empty": [["a"]]}', '{"empty": [["a", "b"]]}', '{"empty": [[""]]}',
    '{"empty": [["c"], ["c"]]}', '{"empty": [[null]]}', DEEP.decode(), '{"empty": [[{}]]}',
    json.dumps({"empty": [["x"] * 5000]}),
], ids=range(16))  # fmt: skip
def test_load_safetensors_rejects_forged_native_metadata(note, tmp_path):
    header = {"__metadata__": {"lcjax": note}, "a": _one()}
    path = _raw(tmp_path / "a.safetensors", header, bytes(8))
    assert path.stat().st_size < 200_000
    refused(lambda: load_safetensors(path))


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("a//b", "c"), ("", "c"), ("/".join("x" * 5000), "c")]
)
def test_load_safetensors_rejects_native_names(names, tmp_path):
    tensors = {name: np.zeros(1, np.float32) for name in names}
    library.save_file(tensors, tmp_path / "a.safetensors", {"lcjax": '{"empty": []}'})
    refused(lambda: load_safetensors(tmp_path / "a.safetensors"))


def test_load_safetensors_native_indices_as_dict(tmp_path):
    save_safetensors(tmp_path / "a", {"1000000000": np.ones(1), "b": {}})
    loaded = load_safetensors(tmp_path / "a")
    assert isinstance(loaded, dict) and loaded.keys() == {"1000000000", "b"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_load_safetensors_strips_wrapper_prefixes(prefix, tmp_path):
    library.save_file({prefix + name: one for name, one in _tensors().items()}, tmp_path / "a")
    library.save_file(_tensors(), tmp_path / "b")
    got, want = (load_safetensors(tmp_path / name, TINY_BERT) for name in "ab")
    assert str(got) == str(want)


def _gpt2(**more):
    shapes = {
        "wpe.weight": (3, 4), "h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,),
        "h.0.attn.c_proj.weight": (4, 4), "h.0.attn.c_proj.bias": (4,),
        "h.0.mlp.c_fc.weight": (4, 16), "h.0.mlp.c_fc.bias": (16,),
        "h.0.mlp.c_proj.weight": (16, 4), "h.0.mlp.c_proj.bias": (4,),
    }  # fmt: skip
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{norm}.weight": (4,), f"{norm}.bias": (4,)}
    draw = np.random.default_rng(0)
    found = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | more


def test_load_safetensors_tied_head_only(tmp_path):
    model, table = GPT2(1, 4, 2, vocab_size=5, max_length=3), np.ones((5, 4), np.float32)
    for name, more in (("a", {"wte.weight": table}), ("b", {"lm_head.weight": table})):
        library.save_file(_gpt2(**more), tmp_path / name)
    got, want = (load_safetensors(tmp_path / name, model) for name in "ba")
    assert str(got) == str(want)
    table = np.where(np.arange(5)[:, None] == 2, np.nan, table)
    both = {"wte.weight": table, "lm_head.weight": table}
    library.save_file(_gpt2(**both), tmp_path / "c")
    load_safetensors(tmp_path / "c", model)  # NaN is equal to itself


def test_load_safetensors_rejects_float32_overflow(tmp_path):
    name = "bert.pooler.dense.weight"
    tensors = {key: one.astype(np.float64) for key, one in _tensors().items()}
    tensors[name] = np.full_like(tensors[name], 1e300)
    library.save_file(tensors, tmp_path / "a")
    refused(
        lambda: load_safetensors(tmp_path / "a", TINY_BERT), f"{name}: got 64 numbers of float64"
    )
    tensors[name] = np.full_like(tensors[name], np.inf)
    library.save_file(tensors, tmp_path / "b")
    assert jnp.isinf(
        load_safetensors(tmp_path / "b", TINY_BERT)["params"]["pooler"]["kernel"]
    ).all()


def test_load_safetensors_escapes_names(tmp_path):
    library.save_file(_tensors() | {"\x1b[31mred\n": np.ones(1, np.float32)}, tmp_path / "a")
    refused(lambda: load_safetensors(tmp_path / "a", TINY_BERT), r"\\x1b\[31mred\\n")
    assert "bert.pooler.dense.weight" in _shapes()
