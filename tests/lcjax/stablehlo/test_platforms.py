"""Programs that are exported for CUDA and TPU, without one: they compute what the model does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from lcjax.models import BERT, GPT2, VGG, Decoder, DecoderConfig, MLPMixer, ModernBERT, ViT
from tests.helpers.narrowing import DATA, MIXED, chain, narrowed
from tests.helpers.nnx_modules import MLP, WIDTH

pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
RNG = np.random.default_rng(0)
TEXT = {"num_classes": 3, "depth": 1, "width": 8, "num_heads": 2, "mlp_hidden": 12}
TEXT |= {"vocab_size": 11, "max_length": 8}
DECODER = DecoderConfig(11, 8, 2, 4, 2, 4, 12, max_length=8, windows=(3, None))
IMAGES, TOKENS = ((8, 8, 3), np.float32), ((5,), np.int32)
MODELS = {
    "vit": (ViT(4, 4, 1, 8, 2, 16), IMAGES),
    "mixer": (MLPMixer(3, 4, 1, 8, 6, 12), IMAGES),
    "vgg": (VGG(3, ((4,), (4,)), grid=1, hidden=(8,)), IMAGES),
    "gpt2": (GPT2(1, 8, 2, vocab_size=11, max_length=6), TOKENS),
    "bert": (BERT(**TEXT), TOKENS),
    "modernbert": (ModernBERT(**TEXT), TOKENS),
    "decoder": (Decoder(DECODER), TOKENS),
    "decoder in a scan": (Decoder(DECODER, scan_layers=True), TOKENS),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "decoder"]


def run_here(path, *inputs):
    """Runs the program of one other platform on the CPU, which runs it where all in it is data."""
    program = jax.export.deserialize(bytearray((path / "program.jax").read_bytes()))
    any_platform = (jax.export.DisabledSafetyCheck.platform(),)
    return dataclasses.replace(program, disabled_safety_checks=any_platform).call(*inputs)


def random(shape, dtype):
    return RNG.integers(0, 9, shape).astype(dtype)


def check(apply_fn, variables, x, path):
    """Exports a model for each platform and both, and runs what is for one."""
    want = np.asarray(apply_fn(variables, x))
    for platform in ("cuda", "tpu"):
        lcjax.export(apply_fn, variables, [x], path / platform, platforms=[platform])
        got = run_here(path / platform, x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    lcjax.export(apply_fn, variables, [x], path / "both", platforms=("cuda", "tpu"))
    assert lcjax.load_exported(path / "both").platforms == ("cuda", "tpu")


@pytest.mark.parametrize("name", ["decoder", *SLOW])
def test_models_run_as_exported_for_accelerators(name, tmp_path):
    model, (shape, dtype) = MODELS[name]
    x = random((3, *shape), dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    check(jax.jit(model.apply), variables, x, tmp_path)


def fused():
    model, variables = chain()
    linear = lcjax.map_slopes(np.ones_like, variables)
    return model.apply, lcjax.collapse(linear)[0], DATA.batches[0][:3]


def with_fewer_units():
    model, variables = chain()
    return model.apply, narrowed(model, variables, MIXED)[0], DATA.batches[0][:3]


def function():
    fn = lcjax.collapsible(lambda p, x: jax.nn.gelu(x @ p["up"]) @ p["down"])
    p = {"up": jnp.ones((6, 12)), "down": jnp.ones((12, 5))}
    compact, _ = fn.trace(p, DATA.batches[0]).collapse_sequential(DATA, fit=lcjax.Units(4))
    return fn, compact, DATA.batches[0][:3]


def nnx_module():
    x = RNG.normal(size=(40, WIDTH)).astype(np.float32)
    model, _ = lcjax.nnx.collapse_sequential(MLP(nnx.Rngs(0)), [x], fit=lcjax.Units(4))
    graphdef, state = nnx.split(model)
    apply_fn = lambda state, x: nnx.merge(graphdef, state)(x)
    return apply_fn, nnx.to_pure_dict(state), x[:3]


@pytest.mark.slow
@pytest.mark.parametrize("form", [fused, with_fewer_units, function, nnx_module])
def test_compact_forms_run_as_exported_for_accelerators(form, tmp_path):
    check(*form(), tmp_path)


def drop_half(variables, x):
    key = jax.random.wrap_key_data(variables["key"])
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape[1:]), x, 0)


def whiten(variables, x):
    return x @ jnp.linalg.cholesky(variables["w"] @ variables["w"].T + jnp.eye(6))


KERNELS = {
    "random": (drop_half, {"key": np.asarray([0, 1], np.uint32)}),
    "linear algebra": (whiten, {"w": RNG.normal(size=(6, 6)).astype(np.float32)}),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_accelerators_are_exported_and_loaded(name, tmp_path):
    apply_fn, variables = KERNELS[name]
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    lcjax.export(apply_fn, variables, [x], tmp_path / "all")
    loaded = lcjax.load_exported(tmp_path / "all")
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(loaded(x), apply_fn(variables, x), rtol=1e-5, atol=1e-5)


def test_an_operation_that_a_platform_lacks_is_named(tmp_path):
    eigenvalues = lambda p, x: x @ jnp.linalg.eig(p)[1].real
    with pytest.raises(ValueError, match="all of cpu, tpu: .*'eig'.*tpu.*Leave that plat"):
        lcjax.export(eigenvalues, np.eye(3), [np.eye(3)], tmp_path / "a", platforms=("cpu", "tpu"))
    assert not any(tmp_path.iterdir())
