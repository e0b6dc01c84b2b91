"""Decoders of every family give the logits of transformers: float32, to 1e-4.

Golden values, made by transformers once (`python -m tests.reference.decoder_programs`), are always
checked; transformers itself where it is installed.
"""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lcjax
from lcjax.interop import WeightsError, load_safetensors, model_from_config
from lcjax.interop.maps.decoder_configs import decoder_config
from lcjax.interop.weights import open_weights
from lcjax.models.decoder import DecoderBlock, DecoderEmbedding, DecoderHead, Rope, text_context
from tests.helpers.hostile import WRONG, safe
from tests.reference.decoder_cases import CONFIGS, MASK, TOKENS, golden, real, tensors

library = pytest.importorskip("safetensors.numpy", reason="extra interop")
GOLDEN = golden()
CLOSE = dict(rtol=0, atol=1e-4)


def write(folder, config, weights, shards=2):
    """Writes a folder as transformers does, with an index where there are several shards."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(weights)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    if shards == 1:
        files = ["model.safetensors"]
    for i, file in enumerate(files):
        part = {name: np.ascontiguousarray(weights[name]) for name in names[i::shards]}
        library.save_file(part, folder / file)
    if shards > 1:
        index = {name: files[k % shards] for k, name in enumerate(names)}
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    return folder


@functools.cache
def _run(model):
    return jax.jit(model.apply)


def logits_of(model, variables):
    """Returns the logits of tokens that are not padding."""
    return real(np.asarray(_run(model)(variables, TOKENS, MASK)))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    @functools.cache
    def make(name):
        case = GOLDEN[name]
        return write(tmp_path_factory.mktemp(name), case["config"], tensors(case["tensors"]))

    return make


@pytest.fixture(scope="module")
def loaded(folder_of):
    @functools.cache
    def make(name):
        model = model_from_config(folder_of(name))
        return model, load_safetensors(folder_of(name), model)

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_golden_values(name, loaded):
    model, variables = loaded(name)
    want = np.array(GOLDEN[name]["logits"])
    assert want.std() > 0.3
    np.testing.assert_allclose(logits_of(model, variables), want, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_logits_equal_golden_values(name, loaded):
    model, variables = loaded(name)
    step = jax.jit(functools.partial(model.apply, mutable="cache"))
    cache, rows = {"cache": model.init_cache(2, TOKENS.shape[1] + 3)}, []
    for start, end in [(0, 7), *((i, i + 1) for i in range(7, TOKENS.shape[1]))]:
        logits, cache = step(variables | cache, TOKENS[:, start:end], MASK[:, start:end])
        rows.append(logits)
    want = np.array(GOLDEN[name]["logits"])
    np.testing.assert_allclose(real(np.concatenate(rows, 1)), want, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_scanned_logits_equal_golden_values(name, loaded, folder_of):
    model, want = loaded(name)[0].clone(scan_layers=True), np.array(GOLDEN[name]["logits"])
    variables = load_safetensors(folder_of(name), model)
    np.testing.assert_allclose(logits_of(model, variables), want, **CLOSE)
    cache = {"cache": model.init_cache(2, TOKENS.shape[1])}
    step = jax.jit(functools.partial(model.apply, mutable="cache"))
    logits, cache = step(variables | cache, TOKENS[:, :6], MASK[:, :6])
    rest, _ = step(variables | cache, TOKENS[:, 6:], MASK[:, 6:])
    np.testing.assert_allclose(real(np.concatenate([logits, rest], 1)), want, **CLOSE)
    single = lcjax.unstack_layers(variables, "blocks", name="block")
    assert jax.tree.structure(single) == jax.tree.structure(loaded(name)[1])


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("llama", dict(rope=Rope(100.0))),
        ("llama_linear", dict(rope=Rope(100.0))),
        ("mistral", dict(windows=())),
        ("qwen2", dict(windows=())),
        ("gemma2", dict(windows=())),
        ("gemma2", dict(attention_softcap=None)),
        ("gemma2", dict(logits_softcap=None)),
        ("gemma2", dict(scale_embedding=False)),
        ("gemma3", dict(windows=(4, 4, 4))),
        ("gemma3", dict(local_rope=None)),
    ],
)
def test_feature_changes_the_logits(name, without, loaded):
    model, variables = loaded(name)
    other = model.clone(config=dataclasses.replace(model.config, **without))
    want = np.array(GOLDEN[name]["logits"])
    assert np.abs(logits_of(other, variables) - want).max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_parts_run_alone_from_their_own_weights(name, folder_of, loaded):
    model, variables = loaded(name)
    context = text_context(jnp.asarray(MASK))
    with open_weights(folder_of(name), model) as weights:
        embedding = weights.part("embed")
        x = jax.jit(DecoderEmbedding(model.config).apply)({"params": embedding}, TOKENS)
        run = jax.jit(DecoderBlock(model.config).apply)
        for i, layer in enumerate(model.config.layers):
            x = run({"params": weights.part(f"block_{i}")}, x, context, layer)
        table = embedding["embedding"] if model.config.tied_head else None
        head = jax.jit(DecoderHead(model.config).apply)
        logits = head({"params": weights.part("head")}, x, table)
        assert run._cache_size() == 1
        with pytest.raises(ValueError, match="block_9: expected a module of the Decoder"):
            weights.part("block_9")
    np.testing.assert_allclose(real(np.asarray(logits)), logits_of(model, variables), **CLOSE)


@pytest.mark.parametrize("name", CONFIGS)
def test_leaves_are_written_back_under_their_names(name, folder_of, loaded):
    model, _ = loaded(name)
    want = tensors(GOLDEN[name]["tensors"])
    with open_weights(folder_of(name), model) as weights:
        made = {}
        for leaf in weights.at:
            stored, layout = weights.stored_as(leaf)
            made[stored] = layout.write(np.asarray(weights.read(leaf)))
    assert made.keys() == want.keys()
    for stored, tensor in made.items():
        np.testing.assert_array_equal(tensor, want[stored], strict=True)


def test_narrowed_leaf_is_written_back(folder_of, loaded):
    model, variables = loaded("llama")
    with open_weights(folder_of("llama"), model) as weights:
        leaf = ("params", "block_1", "mlp", "down", "kernel")
        stored, layout = weights.stored_as(leaf)
    kernel = np.asarray(variables["params"]["block_1"]["mlp"]["down"]["kernel"])[:5]
    assert stored == "model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(layout.write(kernel), kernel.T)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes(dtype, tmp_path, loaded):
    case = GOLDEN["qwen3"]
    narrow = {k: v.astype(dtype) for k, v in tensors(case["tensors"]).items()}
    folder = write(tmp_path / "narrow", case["config"], narrow, shards=3)
    model, exact = loaded("qwen3")
    variables = load_safetensors(folder, model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    model = model.clone(param_dtype=dtype)
    kept = load_safetensors(folder, model)
    np.testing.assert_array_equal(
        kept["params"]["embed"]["embedding"], narrow["model.embed_tokens.weight"], strict=True
    )
    want = logits_of(loaded("qwen3")[0], variables)
    logits = logits_of(model, kept)
    assert logits.dtype == np.float32
    assert np.abs(logits - want).max() < 0.15 * np.abs(want).max()


@pytest.mark.parametrize("said", [True, False])
def test_tied_head_in_the_file_or_not(said, tmp_path, loaded):
    case = GOLDEN["smollm"]
    weights = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors(case["tensors"]).items()}
    table = weights["model.embed_tokens.weight"]
    if said:
        weights["lm_head.weight"] = table.copy()
    else:
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    folder = write(tmp_path / "tied", case["config"], weights)
    model, want = loaded("smollm")
    variables = load_safetensors(folder, model)
    embedding = variables["params"]["embed"]["embedding"]
    np.testing.assert_array_equal(embedding, table.astype(np.float32), strict=True)
    assert jax.tree.structure(variables) == jax.tree.structure(want)
    if said:
        weights["lm_head.weight"] = table + table
        write(folder, case["config"], weights)
        with pytest.raises(WeightsError, match="lm_head.weight: differs from model.embed_tokens"):
            load_safetensors(folder, model)


def test_untied_head_must_be_in_the_file(tmp_path):
    case = GOLDEN["mistral"]
    weights = tensors(case["tensors"])
    del weights["lm_head.weight"]
    folder = write(tmp_path / "headless", case["config"], weights)
    with pytest.raises(WeightsError, match=r"missing: lm_head.weight, for head/kernel \(16, 20\)"):
        load_safetensors(folder, model_from_config(folder))


def test_config_of_transformers_5(loaded):
    for name in ("llama", "gemma3", "qwen2"):
        config = dict(GOLDEN[name]["config"])
        scaling = config.pop("rope_scaling") or {}
        flat = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"} | scaling
        if name == "gemma3":
            local = dict(rope_theta=config.pop("rope_local_base_freq"), rope_type="default")
            flat = {"full_attention": flat, "sliding_attention": local}
        assert decoder_config(config | {"rope_parameters": flat}) == loaded(name)[0].config


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_missing_window_is_that_of_transformers(name):
    config = dict(GOLDEN[name]["config"], use_sliding_window=True, max_window_layers=1)
    config = {k: v for k, v in config.items() if k not in ("sliding_window", "layer_types")}
    depth = config["num_hidden_layers"]
    windows = [4096 if name == "mistral" or i >= 1 else None for i in range(depth)]
    assert decoder_config(config).windows == tuple(windows)
    assert decoder_config(config | {"sliding_window": None}).windows == ()


def _changed(folder, case, **change):
    kept = {k: v for k, v in case["config"].items() if change.get(k, 0) is not ...}
    change = {k: v for k, v in change.items() if v is not ...}
    return write(folder, kept | change, tensors(case["tensors"]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", dict(model_type="phi3"), r"got 'phi3', expected one of .*Decoder \(.*llama, mis"),
        ("llama", dict(num_key_value_heads=3), "num_key_value_heads: got 3, expected a divisor"),
        ("llama_linear", dict(num_attention_heads=3, head_dim=...), "heads: got 3, expected a div"),
        ("llama", dict(head_dim=7), "head_dim: got 7, expected an even number"),
        ("llama", dict(hidden_size="16"), "hidden_size: got '16', expected an integer"),
        ("llama", dict(intermediate_size=...), "intermediate_size: the field is missing"),
        ("qwen3", dict(head_dim=...), "head_dim: the field is missing"),
        ("gemma2", dict(num_key_value_heads=None), "num_key_value_heads: got None, expected an in"),
        ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor: got 0.5, expected 1.0"),
        ("llama", dict(rope_scaling=dict(rope_type="yarn")), "rope_type: got 'yarn', expected one"),
        ("llama", dict(rope_scaling=dict(type="linear")), "factor: the field is missing"),
        ("llama", dict(rope_scaling=[2]), "rope_scaling: got an array of 1, expected an object"),
        ("llama", dict(rope_parameters=3), "rope_parameters: got 3, expected an object"),
        ("llama", dict(rope_theta=-1), "rope_theta: got -1, expected a positive number"),
        ("llama", dict(tie_word_embeddings="no"), "got 'no', expected true or false"),
        ("qwen2", dict(layer_types=["full_attention"]), "layer_types: got an array of 1, expected"),
        ("qwen2", dict(layer_types=["chunked"] * 2), "layer_types: got 'chunked', expected one of"),
        ("gemma3", dict(sliding_window=0), "sliding_window: got 0, expected an integer"),
        ("gemma3", dict(use_bidirectional_attention=True), "bidirectional_attention: got True"),
        ("gemma2", dict(attn_logit_softcapping=-2.0), "softcapping: got -2.0, expected a positive"),
        ("qwen3", dict(quantization_config=dict(quant_method="gptq", bits=4)), "by 'gptq', expec"),
        ("qwen3", dict(quantization_config=dict(quant_method="awq")), "quantized by 'awq'"),
        ("qwen3", dict(quantization_config=dict(quant_method="fp8")), "quantized by 'fp8'"),
        ("qwen3", dict(quantization_config=dict(load_in_4bit=True)), "quantized by an object of 1"),
    ],
)
def test_config_that_no_decoder_runs(name, change, message, tmp_path):
    folder = _changed(tmp_path / "other", GOLDEN[name], **change)
    with pytest.raises(WeightsError, match=message):
        model_from_config(folder)


_FIELDS = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "intermediate_size", "max_position_embeddings", "rms_norm_eps",
    "hidden_act", "hidden_activation", "rope_theta", "rope_local_base_freq", "rope_scaling",
    "layer_types", "sliding_window", "max_window_layers", "use_sliding_window", "attention_bias",
    "mlp_bias", "tie_word_embeddings", "attn_logit_softcapping", "final_logit_softcapping",
    "query_pre_attn_scalar",
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma3"])
def test_config_fields_of_wrong_types(name):
    config = GOLDEN[name]["config"]
    for field in config.keys() - {"model_type"}:
        for kind, wrong in (WRONG | {"wide": 10**309}).items():
            try:
                decoder_config(config | {field: wrong})
            except WeightsError as error:
                safe(error)
                counts = ("rope_scaling", "num_attention_heads", "num_hidden_layers", "hidden_size")
                assert field in str(error) or field in counts
            else:
                unset = kind == "null" or field == "rope_scaling" and wrong == {"a": {}}
                number = kind in ("number", "fraction", "huge")
                flag = kind == "true" and isinstance(config[field], bool)
                assert unset or number or flag or field not in _FIELDS, (field, kind)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mistral", dict(head_dim=4), r"q_proj.weight: file \(32, 16\), model \(16, 16\)"),
        ("llama", dict(intermediate_size=12), r"gate_proj.weight: file \(24, 16\), model \(12, 16"),
        ("llama", dict(num_hidden_layers=3), "missing: layers.2.input_layernorm.weight"),
        ("llama", dict(num_hidden_layers=1), "unexpected: model.layers.1.input_layernorm.weight"),
        ("llama", dict(model_type="qwen3"), "missing: layers.0.self_attn.q_norm.weight"),
        ("gemma2", dict(model_type="llama", hidden_act="silu"), "unexpected: .*pre_feedforward_la"),
    ],
)
def test_config_that_lies(name, change, message, tmp_path):
    folder = _changed(tmp_path / "lies", GOLDEN[name], **change)
    with pytest.raises(WeightsError, match=message):
        load_safetensors(folder, model_from_config(folder))


def test_model_that_differs_from_config(folder_of, loaded):
    model, _ = loaded("gemma3")
    config = dataclasses.replace(model.config, windows=(2, None, 4), query_scale=None)
    with pytest.raises(WeightsError) as error:
        load_safetensors(folder_of("gemma3"), model.clone(config=config))
    assert "! windows: config.json (4, None, 4), model (2, None, 4)" in str(error.value)
    assert "! query_scale: config.json 0.5, model None" in str(error.value)


@pytest.mark.parametrize("names", ["qweight qzeros scales", "weight_scale_inv"])
def test_quantized_tensors_without_a_config_entry(names, tmp_path):
    case = GOLDEN["llama_linear"]
    weights = tensors(case["tensors"])
    for name in names.split():
        weights[f"model.layers.0.mlp.up_proj.{name}"] = np.ones((2, 2), np.int32)
    folder = write(tmp_path / "quantized", case["config"], weights)
    with pytest.raises(
        WeightsError, match="up_proj.(qzeros|weight_scale_inv), part of a quantized tensor"
    ):
        load_safetensors(folder, model_from_config(folder))


def test_missing_index_and_missing_shard(tmp_path):
    case = GOLDEN["llama_linear"]
    folder = write(tmp_path / "shards", case["config"], tensors(case["tensors"]), shards=2)
    model = model_from_config(folder)
    (folder / "model-00002-of-00002.safetensors").rename(tmp_path / "away")
    with pytest.raises(WeightsError, match="files are missing: model-00002-of-00002.safetensors"):
        load_safetensors(folder, model)
    (tmp_path / "away").rename(folder / "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    message = re.escape("expected model.safetensors, an index of several files")
    with pytest.raises(WeightsError, match=message):
        load_safetensors(folder, model)


@pytest.fixture(scope="module")
def programs():
    pytest.importorskip("torch", reason="extra reference")
    try:
        from tests.reference import decoder_programs
    except ImportError as error:  # also from transformers, of versions that it does not run with
        pytest.skip(f"extra reference: {str(error)[:80]}")
    return decoder_programs


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name, programs, tmp_path):
    program = programs.program_of(name)
    assert programs.shapes_of(program) == GOLDEN[name]["tensors"]
    programs.save(program, tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = model_from_config(tmp_path)
    variables = load_safetensors(tmp_path, model)
    ours = logits_of(model, variables)
    np.testing.assert_allclose(ours, real(programs.logits_of(program)), **CLOSE)
    np.testing.assert_allclose(ours, real(programs.cached_logits_of(program, 7)), **CLOSE)
