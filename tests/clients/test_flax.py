"""Flax's own NNX examples: a small language model, trained on after a collapse."""

import jax
import optax
import pytest
from flax import nnx

from tests.clients.contract import Module, check_module

VOCABULARY, WIDTH, HIDDEN, LENGTH = 64, 32, 128, 8


class MlpBlock(nnx.Module):
    """As in flax/examples/lm1b_nnx/models.py."""

    def __init__(self, rngs):
        self.linear1 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.linear2 = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)

    def __call__(self, inputs, rngs=None):
        x = nnx.relu(self.linear1(inputs))
        x = self.dropout(x, deterministic=rngs is None, rngs=rngs)
        x = self.linear2(x)
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


class DecoderBlock(nnx.Module):
    def __init__(self, rngs):
        self.ln1, self.ln2 = (nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.mlp = MlpBlock(rngs)

    def __call__(self, inputs, mask, rngs=None):
        x = inputs + self.attention(self.ln1(inputs), mask=mask)
        return x + self.mlp(self.ln2(x), rngs)


class TransformerLM(nnx.Module):
    def __init__(self, rngs, depth=3):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (LENGTH, WIDTH)))
        self.blocks = nnx.List([DecoderBlock(rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens, rngs=None):
        x = self.embed(tokens) + self.positions[:]
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask, rngs)
        return self.embed.attend(self.norm(x))


TOKENS = jax.random.randint(jax.random.key(0), (4, LENGTH), 0, VOCABULARY)
SITES = [f"blocks/{i}/mlp/linear1" for i in range(3)]


@pytest.fixture
def model():
    return TransformerLM(nnx.Rngs(0))


def test_language_model(model, record_property):
    module = Module("NNX language model, 3 layers", "flax", model, (TOKENS,), SITES)
    compact = check_module(module, record_property)

    optimizer = nnx.Optimizer(compact, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, tokens):
        def loss(model):
            logits = model(tokens, nnx.Rngs(1))[:, :-1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    losses = [float(step(compact, optimizer, TOKENS)) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
