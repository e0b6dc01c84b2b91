"""Seconds of `lcjax.nnx.collapse` on a decoder, and what of them is the surgery itself."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import lcjax

WIDTH, HIDDEN, HEADS, VOCAB = 32, 96, 4, 256


class Attention(nnx.Module):
    """Causal attention that writes keys and values to a cache."""

    def __init__(self, length: int, rngs: nnx.Rngs):
        self.qkv = nnx.LinearGeneral(WIDTH, (3, HEADS, WIDTH // HEADS), use_bias=False, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        shape = (1, length, HEADS, WIDTH // HEADS)
        self.keys, self.values = nnx.Cache(jnp.zeros(shape)), nnx.Cache(jnp.zeros(shape))
        self.index = nnx.Cache(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (1, time, width) to the same shape, after those in the cache."""
        query, key, value = jnp.moveaxis(self.qkv(x), 2, 0)
        start, time = self.index[...], x.shape[1]
        for cache, new in ((self.keys, key), (self.values, value)):
            cache[...] = jax.lax.dynamic_update_slice(cache[...], new, (0, start, 0, 0))
        self.index[...] = start + time
        seen = jnp.arange(self.keys.shape[1]) <= (start + jnp.arange(time))[:, None]
        mixed = jax.nn.dot_product_attention(
            query, self.keys[...], self.values[...], mask=seen[None, None]
        )
        return self.out(mixed.reshape(x.shape))


class SwiGLU(nnx.Module):
    """The MLP of Llama, Qwen and Gemma."""

    def __init__(self, rngs: nnx.Rngs):
        plain: dict[str, Any] = {"use_bias": False, "rngs": rngs}
        self.gate, self.up = (nnx.Linear(WIDTH, HIDDEN, **plain) for _ in range(2))
        self.down = nnx.Linear(HIDDEN, WIDTH, **plain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (..., width) to the same shape."""
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """A pre-norm decoder block."""

    def __init__(self, length: int, rngs: nnx.Rngs):
        self.norm_1, self.norm_2 = (nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.attention, self.mlp = Attention(length, rngs), SwiGLU(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (1, time, width) to the same shape."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Decoder(nnx.Module):
    """A language model with a cache of 64 tokens."""

    def __init__(self, layers: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(64, rngs) for _ in range(layers)])
        self.norm, self.head = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, VOCAB, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps tokens (1, time) to logits (1, time, vocabulary)."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def collapse_seconds(layers: int, rounds: int) -> dict[str, float]:
    """Returns median seconds of the parts of a collapse of all MLPs.

    Args:
      layers: of the decoder.
      rounds: how often each is timed.

    Returns:
      "jax": JAX traces the call of the split module. "trace": `lcjax.nnx.trace`. "surgery": the
      collapse of the params of a traced call. "whole": `lcjax.nnx.collapse`. "beyond": whole less
      surgery.
    """
    model, ids = Decoder(layers, nnx.Rngs(0)), jnp.zeros((1, 16), jnp.int32)
    fit = lcjax.Exact(max_gap=1)
    call = lcjax.nnx.trace(model, ids)
    graph, state = nnx.split(model)
    parts: dict[str, Callable[[], Any]] = {
        "jax": lambda: jax.make_jaxpr(lambda state, ids: nnx.merge(graph, state)(ids))(state, ids),
        "trace": lambda: lcjax.nnx.trace(model, ids),
        "surgery": lambda: jax.block_until_ready(call.call.collapse(fit=fit)[0]),
        "whole": lambda: jax.block_until_ready(
            nnx.state(lcjax.nnx.collapse(model, ids, fit=fit)[0])
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for i in range(rounds + 1):  # the first compiles
        for name, run in parts.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {**medians, "beyond": medians["whole"] - medians["surgery"]}
