"""NNX modules of the kinds that users write."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH, HIDDEN, VOCAB = 8, 24, 11


def tokens(rows=6, length=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (rows, length)), jnp.int32)


def rows(*shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


class MLP(nnx.Module):
    """Two nnx.Linear with an activation between."""

    def __init__(self, rngs, width=WIDTH, hidden=HIDDEN, dtype=None, use_bias=True):
        kind = {
            "rngs": rngs,
            "use_bias": use_bias,
            "dtype": dtype,
            "param_dtype": dtype or "float32",
        }
        self.up = nnx.Linear(width, hidden, **kind)
        self.down = nnx.Linear(hidden, width, **kind)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


class SwiGLU(nnx.Module):
    """The MLP of Llama, Qwen and Gemma."""

    def __init__(self, rngs, width=WIDTH, hidden=HIDDEN):
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class InlinedBlock(nnx.Module):
    """A pre-norm residual block that has the layers of its MLP itself, and dropout."""

    def __init__(self, rngs, width=WIDTH, hidden=HIDDEN):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norm(x)))))


class Stack(nnx.Module):
    """Modules one after another."""

    def __init__(self, layers):
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def rope(x, positions):
    """Rotary positions on (batch, time, heads, d)."""
    half = x.shape[-1] // 2
    angles = positions[..., None, None] / 10_000 ** (jnp.arange(half, dtype=jnp.float32) / half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)], -1
    )


class Attention(nnx.Module):
    """Causal attention with grouped queries, rotary positions and a cache."""

    def __init__(self, rngs, heads=4, kv_heads=2, head=4):
        linear = lambda d_in, d_out: nnx.Linear(d_in, d_out, use_bias=False, rngs=rngs)
        self.q, self.o = linear(WIDTH, heads * head), linear(heads * head, WIDTH)
        self.k, self.v = linear(WIDTH, kv_heads * head), linear(WIDTH, kv_heads * head)
        self.heads, self.kv_heads, self.head = heads, kv_heads, head

    def init_cache(self, batch, length):
        shape = (batch, length, self.kv_heads, self.head)
        self.cached_k, self.cached_v = nnx.Cache(jnp.zeros(shape)), nnx.Cache(jnp.zeros(shape))
        self.index = nnx.Cache(jnp.zeros((), jnp.int32))

    def __call__(self, x, decode):
        batch, time, _ = x.shape
        start = self.index[...] if decode else jnp.zeros((), jnp.int32)
        positions = start + jnp.arange(time)
        q = rope(self.q(x).reshape(batch, time, self.heads, self.head), positions[None].astype("f"))
        k = self.k(x).reshape(batch, time, self.kv_heads, self.head)
        k = rope(k, positions[None].astype("f"))
        v = self.v(x).reshape(batch, time, self.kv_heads, self.head)
        if decode:
            at = (0, start, 0, 0)
            self.cached_k[...] = k = jax.lax.dynamic_update_slice(self.cached_k[...], k, at)
            self.cached_v[...] = v = jax.lax.dynamic_update_slice(self.cached_v[...], v, at)
            self.index[...] = start + time
        q = q.reshape(batch, time, self.kv_heads, -1, self.head)
        scores = jnp.einsum("btkgd,bskd->bkgts", q, k) / np.float32(self.head**0.5)
        seen = jnp.arange(k.shape[1])[None, :] <= positions[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, jnp.float32(-1e9)), -1)
        y = jnp.einsum("bkgts,bskd->btkgd", weights, v)
        return self.o(y.reshape(batch, time, -1))


class Block(nnx.Module):
    """A pre-norm decoder block."""

    def __init__(self, rngs):
        self.norm_1, self.norm_2 = (nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.attention, self.mlp = Attention(rngs), SwiGLU(rngs)

    def __call__(self, x, decode):
        x = x + self.attention(self.norm_1(x), decode)
        return x + self.mlp(self.norm_2(x))


class Decoder(nnx.Module):
    """A language model: RMSNorm, RoPE, grouped queries, SwiGLU, cache."""

    def __init__(self, rngs, blocks=4):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(blocks)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCAB, use_bias=False, rngs=rngs)

    def __call__(self, ids, decode=False):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, decode)
        return self.head(self.norm(x))


@nnx.jit
def decode_step(model, ids):
    """Returns the logits of the next token, and adds the given ones to the cache."""
    return model(ids, decode=True)[:, -1]


def generate(model, prompt, steps):
    """Returns prompt and the likeliest continuation, with the cache; and the logits of each."""
    model = nnx.clone(model)
    for block in model.blocks:
        block.attention.init_cache(prompt.shape[0], prompt.shape[1] + steps)
    ids, given, logits = prompt, prompt, []
    for _ in range(steps):
        logits.append(decode_step(model, given))
        given = jnp.argmax(logits[-1], -1, keepdims=True).astype(jnp.int32)
        ids = jnp.concatenate([ids, given], 1)
    return ids, jnp.stack(logits, 1)
