"""Tunix: decoders written in NNX."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.clients.contract import Module, check_module, normal
from tests.clients.packages import client

client("tunix", "google-tunix")
llama3 = client("tunix.models.llama3.model", "google-tunix")
qwen3 = client("tunix.models.qwen3.model", "google-tunix")
gemma3 = client("tunix.models.gemma3.model", "google-tunix")

SIZES = dict(num_layers=3, embed_dim=32, hidden_dim=128, num_heads=4, head_dim=8, num_kv_heads=2)


def llama(vocabulary=64):
    config = llama3.ModelConfig(vocab_size=vocabulary, rope_theta=10_000, norm_eps=1e-5, **SIZES)
    return llama3.Llama3(config, rngs=nnx.Rngs(0))


def qwen():
    config = qwen3.ModelConfig(vocab_size=64, rope_theta=10_000, norm_eps=1e-6, **SIZES)
    return qwen3.Qwen3(config, rngs=nnx.Rngs(0))


def gemma():
    window = dict(sliding_window_size=4, param_dtype=jnp.float32)
    return gemma3.Gemma3(gemma3.ModelConfig(num_embed=64, **window, **SIZES), rngs=nnx.Rngs(0))


DECODERS = {"Llama3": llama, "Qwen3": qwen, "Gemma3": gemma}


def random(model):
    """Fills a model, some of whose kernels Tunix creates as zeros, with random weights."""
    nnx.update(model, normal(nnx.state(model, nnx.Param)))
    return model


def inputs(batch=2, length=6):
    tokens = jax.random.randint(jax.random.key(0), (batch, length), 1, 64)
    positions = jnp.tile(jnp.arange(length), (batch, 1))
    mask = jnp.tile(jnp.tril(jnp.ones((length, length), bool)), (batch, 1, 1))
    return tokens, positions, None, mask


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, record_property):
    sites = [f"layers/{i}/mlp/up_proj" for i in range(3)]
    model = random(DECODERS[name]())
    first = lambda outputs: outputs[0]
    module = Module(f"{name}, 3 layers", "google-tunix", model, inputs(), sites, first)
    check_module(module, record_property)
