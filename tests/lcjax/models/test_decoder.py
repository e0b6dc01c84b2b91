"""Decoders: published sizes, caches, padding, dtypes, collapses, and configs that cannot be."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.models import Decoder, DecoderConfig
from lcjax.models.decoder import DecoderHead, Rope, text_context

# Parameters: what the model pages on huggingface.co give from the headers of the safetensors files
# (API field safetensors.total). The files of Qwen3 0.6B and 1.7B have the tied head as well, which
# is not counted here: that leaves the counts of KerasHub's presets and of general.parameter_count
# in GGUF files.
PUBLISHED = {
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.1-8B": 8_030_261_248,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Gemma-3-1B": 999_885_952,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
}
CONFIG = DecoderConfig(
    vocab_size=11, width=8, depth=3, num_heads=4, num_kv_heads=2, head_width=4, mlp_hidden=12,
    windows=(3, None, 3), local_rope=Rope(10.0), qk_norm=True, tied_head=True,
)  # fmt: skip
MODEL = Decoder(CONFIG)
TOKENS = np.random.RandomState(0).randint(0, 11, (2, 9))


@cache
def _variables(model=MODEL):
    """Random params of ordinary size; slopes are 0."""
    rng = np.random.RandomState(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))

    def fill(path, leaf):
        if path[-1].key == "slope":
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.normal(0.5, 0.6, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@cache
def _apply(model=MODEL, **fixed):
    return jax.jit(partial(model.apply, **fixed))


def _logits(*inputs, **fixed):
    return np.asarray(_apply(**fixed)(_variables(), *inputs))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_parameter_counts(preset):
    model = Decoder.from_preset(preset, scan_layers=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert lcjax.count_parameters(shapes) == PUBLISHED[preset]


def test_from_preset():
    model = Decoder.from_preset("Llama-3.2-1B", depth=3, dtype=jnp.bfloat16, remat=True)
    assert (model.config.depth, model.config.width, model.remat) == (3, 2048, True)
    gemma = Decoder.from_preset("Gemma-3-1B").config
    assert gemma.windows[:6] == (512,) * 5 + (None,) and len(gemma.windows) == 26
    with pytest.raises(ValueError, match="preset 'Llama-9', expected one of Llama-3.2-1B, Llama-3"):
        Decoder.from_preset("Llama-9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_kv_heads=3), "num_kv_heads: got 3, expected a divisor of num_heads=4"),
        (dict(head_width=5), "head_width: got 5, expected an even number"),
        (dict(depth=0, windows=()), "depth: got 0, expected 1 or more"),
        (dict(activation="mish"), "activation: got 'mish', expected one of gelu"),
        (dict(windows=(3,)), "windows: got 1, expected one for each of 3 blocks"),
        (dict(windows=(0, 1, 2)), "windows: got 0, expected 1 or more, or None"),
        (dict(logits_softcap=0.0), "logits_softcap: got 0.0, expected a positive number"),
    ],
)
def test_config_rejects(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(scaling="yarn"), "scaling='yarn', expected linear, llama3 or None"),
        (dict(theta=0.0), "expected positive numbers"),
        (dict(scaling="llama3", low_factor=4.0), "expected low_factor below high_factor"),
    ],
)
def test_rope_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        Rope(**fields)


@pytest.mark.slow
def test_padding_before_and_after_changes_nothing():
    want = _logits(TOKENS)
    rng = np.random.RandomState(2)
    for before, after in ((3, 0), (1, 2)):
        pads = [rng.randint(0, 11, (2, n)) for n in (before, after)]
        tokens = np.concatenate([pads[0], TOKENS, pads[1]], 1)
        mask = np.pad(np.ones(TOKENS.shape, bool), ((0, 0), (before, after)))
        assert np.asarray(text_context(jnp.asarray(mask)).positions)[:, before].tolist() == [0, 0]
        got = _logits(tokens, mask)[:, before : before + 9]
        np.testing.assert_allclose(got, want, atol=2e-5)
        last = _logits(tokens, mask, last_only=True)
        np.testing.assert_allclose(last, want[:, -1], atol=2e-5)


@pytest.mark.slow
def test_cache_continues_a_padded_prompt():
    step, variables = _apply(mutable="cache"), _variables()
    mask = np.ones((2, 9), bool)
    mask[1, 5:7] = False  # the second prompt is shorter
    state = {"cache": MODEL.init_cache(2, 10)}
    _, state = step(variables | state, TOKENS[:, :7], mask[:, :7])
    logits, state = step(variables | state, TOKENS[:, 7:], mask[:, 7:])
    np.testing.assert_allclose(logits[0], _logits(TOKENS)[0, 7:], atol=2e-5)
    np.testing.assert_allclose(logits[1], _logits(TOKENS[1:, mask[1]])[0, 5:], atol=2e-5)
    over, _ = step(variables | state, TOKENS[:, 7:], mask[:, 7:])
    assert np.isnan(over).all()


def test_rejects_wrong_tokens():
    with pytest.raises(ValueError, match=r"tokens: got shape \(9,\), expected \(batch, tokens\)"):
        MODEL.apply(_variables(), TOKENS[0])
    variables = _variables() | {"cache": MODEL.init_cache(2, 4)}
    with pytest.raises(ValueError, match="got texts of 9 tokens, expected at most 4"):
        MODEL.apply(variables, TOKENS, mutable="cache")
    with pytest.raises(ValueError, match="head: got no table for a tied head|DecoderHead: got no"):
        DecoderHead(CONFIG).apply({"params": _variables()["params"]["head"]}, jnp.ones((1, 8)))
    assert np.isnan(_logits(np.where(TOKENS == TOKENS[0, 0], 11, TOKENS))[0, 0]).all()


@pytest.mark.slow
def test_remat_gives_the_same_gradients():
    def loss(params, model):
        return model.apply({"params": params}, TOKENS).std()

    gradient, params = jax.jit(jax.grad(loss), static_argnums=1), _variables()["params"]
    plain, remat = (gradient(params, MODEL.clone(remat=flag)) for flag in (False, True))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), plain, remat)


def test_bfloat16():
    model = MODEL.clone(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = _variables(model)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"bfloat16", "float32"}
    state = {"cache": model.init_cache(2, 9)}
    assert state["cache"]["block_0"]["attention"]["key"].dtype == jnp.bfloat16
    logits, _ = _apply(model, mutable="cache")(variables | state, TOKENS)
    assert logits.dtype == jnp.float32
    want = _logits(TOKENS)
    assert np.abs(logits - want).max() < 0.2 * np.abs(want).max()


@pytest.mark.slow
def test_sites_narrow_and_collapse():
    variables = _variables()
    sites = lcjax.find_sites(variables).paths
    assert sites == tuple(f"block_{i}/mlp/act" for i in range(3))
    data = [TOKENS, TOKENS[:, ::-1].copy()]
    fit = lcjax.Units(5)
    calibration = lcjax.calibrate(MODEL.apply, variables, data, sites[:2], fit)
    compact, _ = lcjax.collapse(variables, sites[:2], fit, calibration=calibration)
    compact, _ = lcjax.collapse(compact, sites[2:], lcjax.Exact(max_gap=1.0))
    shapes = [jax.tree.map(jnp.shape, compact["params"][f"block_{i}"]["mlp"]) for i in range(3)]
    assert shapes[0]["up"] == shapes[1]["gate"] == {"kernel": (8, 5)}
    assert shapes[2] == {"down": {"kernel": (8, 8)}}
    logits = _apply()(compact, TOKENS)
    state = {"cache": MODEL.init_cache(2, 9)}
    cached, _ = _apply(mutable="cache")(compact | state, TOKENS)
    np.testing.assert_allclose(cached, logits, atol=2e-5)
    assert np.abs(logits - _logits(TOKENS)).max() > 1e-2
