"""Linen models as their users have them: nothing in them knows lcjax."""

import flax.linen as nn
import jax.numpy as jnp

VOCAB, WIDTH, LENGTH = 11, 8, 6


class Block(nn.Module):
    """A decoder block with a cache, dropout and a pair of Dense layers."""

    decode: bool

    @nn.compact
    def __call__(self, x, train=False):
        mask = None if self.decode else nn.make_causal_mask(x[..., 0])
        attention = nn.MultiHeadDotProductAttention(2, decode=self.decode, name="attention")
        x = x + attention(nn.LayerNorm(name="norm_0")(x), mask=mask)
        h = nn.gelu(nn.Dense(24, name="up")(nn.LayerNorm(name="norm_1")(x)))
        h = nn.Dropout(0.5, deterministic=not train)(h)
        return x + nn.Dense(WIDTH, name="down")(h)


class Decoder(nn.Module):
    """A language model; with `decode` it reads one token a call."""

    decode: bool = False
    info: str = "tiny"

    def setup(self):
        self.embed = nn.Embed(VOCAB, WIDTH)
        self.blocks = [Block(self.decode, name=f"block_{i}") for i in range(2)]

    def __call__(self, tokens, train=False):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, train)
        return self.embed.attend(x)

    def features(self, tokens):
        return self.blocks[0](self.embed(tokens))

    def empty_cache(self, rows):
        return {"rows": jnp.zeros(rows)}


class Classifier(nn.Module):
    """A network with a batch norm between the pair."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(16, name="up")(x))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        self.sow("intermediates", "hidden", x.mean())
        return nn.Dense(3, name="down")(x)


class Parent(nn.Module):
    """A model with another as a submodule."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2, name="head")(self.inner(nn.tanh(x), train=train))
