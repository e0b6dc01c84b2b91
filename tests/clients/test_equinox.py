"""Equinox: a transformer encoder as its users write one."""

import jax
import jax.numpy as jnp

import lcjax
from tests.clients.contract import Client, agrees, check
from tests.clients.packages import client

eqx = client("equinox", "equinox")


class Block(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm_2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width, hidden, key):
        keys = jax.random.split(key, 3)
        self.norm_1, self.norm_2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[0])
        self.up = eqx.nn.Linear(width, hidden, key=keys[1])
        self.down = eqx.nn.Linear(hidden, width, key=keys[2])

    def __call__(self, x):
        y = jax.vmap(self.norm_1)(x)
        x = x + self.attention(y, y, y)
        y = jax.vmap(self.norm_2)(x)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(y)))


class Encoder(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, depth, width, hidden, key):
        keys = jax.random.split(key, depth + 2)
        self.embedding = eqx.nn.Embedding(50, width, key=keys[0])
        self.blocks = [Block(width, hidden, key) for key in keys[1:-1]]
        self.head = eqx.nn.Linear(width, 3, key=keys[-1])

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 0, 50)
SITES = [f"blocks/{i}/up" for i in range(3)]


def encoder():
    return Encoder(3, 32, 128, jax.random.key(1))


def test_transformer(record_property):
    params, static = eqx.partition(encoder(), eqx.is_array)
    fn = lambda params, tokens: jax.vmap(eqx.combine(params, static))(tokens)
    client = Client("transformer encoder, 3 blocks", "equinox", fn, params, (TOKENS,), SITES)
    check(client, record_property)


def test_a_model_comes_back(tmp_path):
    model = encoder()
    batched = lambda model, tokens: jax.vmap(model)(tokens)
    sloped = lcjax.eqx.add_slopes(model, TOKENS, fn=batched)
    agrees(batched(sloped, TOKENS), batched(model, TOKENS))
    ones = lambda path, leaf: jnp.ones_like(leaf) if "slope" in jax.tree_util.keystr(path) else leaf
    linear = jax.tree_util.tree_map_with_path(ones, sloped)
    compact, report = lcjax.eqx.collapse(linear, TOKENS, fn=batched)
    assert report.collapsed == tuple(SITES)
    assert isinstance(compact, Encoder)
    want = batched(linear, TOKENS)
    agrees(batched(compact, TOKENS), want)
    agrees(eqx.filter_jit(batched)(compact, TOKENS), want)

    gradient = eqx.filter_grad(lambda model: batched(model, TOKENS).sum())(compact)
    assert jax.tree.leaves(eqx.filter(gradient, eqx.is_array))
    eqx.tree_serialise_leaves(tmp_path / "compact.eqx", compact)
    empty = jax.tree.map(lambda leaf: leaf * 0 if eqx.is_array(leaf) else leaf, compact)
    read = eqx.tree_deserialise_leaves(tmp_path / "compact.eqx", empty)
    agrees(batched(read, TOKENS), want)
