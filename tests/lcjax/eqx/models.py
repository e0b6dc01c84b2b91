"""Equinox models as their users write them: nothing in them knows lcjax."""

import equinox as eqx
import jax
import jax.numpy as jnp

WIDTH, HIDDEN, VOCAB, LENGTH = 8, 24, 11, 6


class FeedForward(eqx.Module):
    """A user's MLP whose call is exactly the pair."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=first)
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=second)

    def __call__(self, x):
        return self.down(jax.nn.gelu(self.up(x)))


class Gated(eqx.Module):
    """A gated MLP on a whole sequence, from bare arrays, with a dropout."""

    gate: jax.Array
    up: jax.Array
    out: jax.Array
    dropout: eqx.nn.Dropout
    name: str = eqx.field(static=True)

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.gate = jax.random.normal(keys[0], (WIDTH, HIDDEN)) / 3
        self.up = jax.random.normal(keys[1], (WIDTH, HIDDEN)) / 3
        self.out = jax.random.normal(keys[2], (HIDDEN, WIDTH)) / 5
        self.dropout = eqx.nn.Dropout(0.1, inference=True)
        self.name = "gated"

    def __call__(self, x, *, key=None):
        return self.dropout((jax.nn.silu(x @ self.gate) * (x @ self.up)) @ self.out, key=key)


class Block(eqx.Module):
    """Attention and a MLP of either kind."""

    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.Module

    def __init__(self, mlp, key):
        first, second = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(2, WIDTH, key=first)
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.mlp = mlp(second)

    def __call__(self, x):
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(x, x, x, mask=mask)
        normed = jax.vmap(self.norm)(x)
        return x + (self.mlp(normed) if isinstance_gated(self.mlp) else jax.vmap(self.mlp)(normed))


def isinstance_gated(mlp):
    return hasattr(mlp, "gate")


class Transformer(eqx.Module):
    """A language model of one sequence of tokens."""

    embed: eqx.nn.Embedding
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, mlps, key):
        keys = jax.random.split(key, len(mlps) + 2)
        self.embed = eqx.nn.Embedding(VOCAB, WIDTH, key=keys[0])
        self.blocks = [Block(mlp, k) for mlp, k in zip(mlps, keys[2:], strict=True)]
        self.head = eqx.nn.Linear(WIDTH, VOCAB, key=keys[1])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(x)


class Scanned(eqx.Module):
    """A stack of MLPs that a scan runs."""

    layers: FeedForward

    def __init__(self, key):
        self.layers = eqx.filter_vmap(FeedForward)(jax.random.split(key, 3))

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(x, layer):
            return x + eqx.combine(layer, static)(x), None

        return jax.lax.scan(step, x, arrays)[0]


class Residual(eqx.Module):
    """A block that owns both layers of its pair, with methods that run parts."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        made = FeedForward(key)
        self.up, self.down = made.up, made.down

    def hidden(self, x):
        return jax.nn.relu(self.up(x))

    def __call__(self, x):
        return x + self.down(self.hidden(x))


class Scaling(FeedForward):
    """A pair with a field that only the module around it reads."""

    scale: jax.Array

    def __init__(self, key):
        super().__init__(key)
        self.scale = jnp.asarray(3.0)


class Outer(eqx.Module):
    """A module that reads a field of the one that it calls."""

    inner: Scaling

    def __call__(self, x):
        return self.inner(x) * self.inner.scale


class Dropped(FeedForward):
    """A pair with a dropout after it."""

    dropout: eqx.nn.Dropout

    def __init__(self, key):
        super().__init__(key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        return self.dropout(super().__call__(x), key=key)
