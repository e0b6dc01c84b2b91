"""Narrowed models are written, read, checked and exported as deep and collapsed ones are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.cli.command import main
from lcjax.cli.model_spec import check_all_used
from lcjax.interop import WeightsError, load_safetensors, save_safetensors
from lcjax.models import BERT, GPT2, MLP, Decoder, DecoderConfig, MLPMixer, ViT
from lcjax.tree.paths import is_slope
from tests.helpers.narrowed import narrow_every_mlp, remove_every_mlp

pytestmark = pytest.mark.promotes

TEXT = dict(depth=2, width=12, num_heads=3, vocab_size=30, max_length=8)
IMAGE = dict(patch_size=4, depth=2, width=8, num_classes=3)
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 6))
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
MODELS = {
    "bert": (BERT(3, mlp_hidden=24, **TEXT), TOKENS),
    "gpt2": (GPT2(**TEXT), TOKENS),
    "decoder": (Decoder(DecoderConfig(30, 12, 2, 4, 2, 4, 16)), TOKENS),
    "swiglu": (GPT2(glu=True, **TEXT), TOKENS),
    "vit": (ViT(num_heads=2, mlp_hidden=16, **IMAGE), IMAGES),
    "mixer": (MLPMixer(token_hidden=16, channel_hidden=16, **IMAGE), IMAGES),
    "mlp": (MLP((16, 12, 3)), IMAGES),
}
FORMS = {
    "units": functools.partial(narrow_every_mlp, count=5, linear=False),
    "units and linear": functools.partial(narrow_every_mlp, count=5),
    "removed": remove_every_mlp,
}


@functools.cache
def _deep(name):
    model, inputs = MODELS[name]
    rng = np.random.default_rng(1)

    def leaf(keys, shape):
        scale = 0.0 if is_slope(keys) else 0.5
        return np.asarray(scale * rng.standard_normal(shape.shape), shape.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(inputs))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _case(name, form):
    model, inputs = MODELS[name]
    return model, jnp.asarray(inputs), FORMS[form](_deep(name))


CASES = [
    pytest.param(name, form, marks=() if name in ("swiglu", "mixer") else pytest.mark.slow)
    for name in MODELS
    for form in FORMS
    if (name, form) != ("mlp", "removed")  # its first pair does not end the chain
]


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.slow
def test_narrowed_models_are_restored_and_run_the_same(name, form, tmp_path):
    model, inputs, variables = _case(name, form)
    want = model.apply(variables, inputs)
    assert not np.allclose(want, model.apply(_deep(name), inputs))
    lcjax.save(tmp_path / "a", variables)
    restored = lcjax.restore(tmp_path / "a")
    np.testing.assert_array_equal(model.apply(restored, inputs), want)
    like = jax.eval_shape(lambda: variables)
    jax.tree.map(np.testing.assert_array_equal, lcjax.restore(tmp_path / "a", like=like), restored)
    with pytest.raises(lcjax.CheckpointError, match="checkpoint and like differ"):
        lcjax.restore(tmp_path / "a", like=_deep(name))
    check_all_used(model, restored, [jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)])


@pytest.mark.parametrize("name", ["bert", "swiglu", "vit"])
def test_narrowed_models_in_safetensors_files(name, tmp_path):
    pytest.importorskip("safetensors.numpy", reason="extra interop")
    model, _, variables = _case(name, "units and linear")
    save_safetensors(tmp_path / "a.safetensors", variables)
    loaded = load_safetensors(tmp_path / "a.safetensors", model)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    block = variables["params"]["block_1"]["mlp"]
    for bypass in ("bypass", "bypass_0"):
        block.pop(bypass, None)
    save_safetensors(tmp_path / "b.safetensors", variables)
    with pytest.raises(WeightsError, match="block_1/mlp/(dense_0|gate): the kernel is 5 wide"):
        load_safetensors(tmp_path / "b.safetensors", model)


def test_leaves_of_a_bypass_that_the_model_does_not_have_are_unused():
    model, inputs, variables = _case("swiglu", "units")
    variables["params"]["block_0"]["bypass"] = {"bias": np.zeros(12, np.float32)}
    with pytest.raises(ValueError, match="got 1 leaves that GPT2 does not use"):
        check_all_used(model, variables, [jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_a_decoder_generates_the_same_with_its_cache(form):
    model, tokens, variables = _case("swiglu", form)
    whole = model.apply(variables, tokens)
    state = {**variables, "cache": model.init_cache(len(tokens))}
    for i in range(tokens.shape[1]):
        out, updated = model.apply(state, tokens[:, i : i + 1], mutable="cache")
        np.testing.assert_allclose(out[:, 0], whole[:, i], rtol=1e-4, atol=1e-4)
        state |= updated


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_command_exports_narrowed_models(form, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    model, images, variables = _case("mixer", form)
    lcjax.save(tmp_path / "a", variables)
    spec = "mixer:patch_size=4,depth=2,width=8,token_hidden=16,channel_hidden=16"
    shape = ["--input-shape", "8,8,3", "--platforms", "cpu"]
    main(["export", str(tmp_path / "a"), str(tmp_path / "b"), "--model", spec, *shape])
    got = lcjax.load_exported(tmp_path / "b")(images)
    np.testing.assert_allclose(got, model.apply(variables, images), rtol=1e-5, atol=1e-5)
