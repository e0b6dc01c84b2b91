"""Overhead of slopes and penalty on a training step.

`python -m benchmarks penalty_overhead`: two networks, each built twice from the same blocks: with
CollapsibleMLP and `lcjax.with_linearity_penalty(adamw)`, and with `nn.Dense`, the plain activation
and adamw. The MLP takes one step per call, as many training loops do, or ten in a `lax.scan`, as
`train.engine.loop` does.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.timing import interleaved, quartiles, ratio
from lcjax.models.activations import exact_gelu
from train.runtime.memory import keep_freed_memory

MakeMLP = Callable[..., nn.Module]


class PlainMLP(nn.Module):
    """CollapsibleMLP without slopes."""

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x (..., d_in) to (..., features[-1])."""
        for width in self.features[:-1]:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(self.features[-1])(x)


class Encoder(nn.Module):
    """A GELU encoder of MiniLM-L6's size: 6 post-norm blocks, 12 heads, 384 wide, 1,536 hidden."""

    mlp: MakeMLP

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps embedded tokens (batch, length, 384) to logits (batch, 2)."""
        for _ in range(6):
            x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(12)(x, x))
            x = nn.LayerNorm()(x + self.mlp((1536, 384), exact_gelu)(x))
        return nn.Dense(2)(x[:, 0])


def make_steps(
    model: nn.Module, tx: optax.GradientTransformation, x: jax.Array, count: int
) -> Callable[[], Any]:
    """Returns a compiled call of `count` training steps that donates and keeps its state."""
    labels = jnp.zeros(len(x), jnp.int32)
    params = model.init(jax.random.key(0), x)["params"]

    def step(carry, _):
        params, state = carry

        def loss(params):
            logits: Any = model.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @partial(jax.jit, donate_argnums=0)
    def steps(carry):
        return step(carry, None)[0] if count == 1 else jax.lax.scan(step, carry, length=count)[0]

    carry = (params, tx.init(params))

    def call() -> Any:
        nonlocal carry
        carry = steps(carry)
        return carry

    return call


def networks() -> dict[str, tuple[Callable[[MakeMLP], nn.Module], jax.Array, int]]:
    """Returns, by name, a network as a function of its MLP class, inputs, and steps per call."""

    def fashion_mlp(mlp: MakeMLP) -> nn.Module:
        return mlp((512, 512, 512, 10), nn.relu)

    images = jax.random.normal(jax.random.key(1), (256, 784))
    tokens = jax.random.normal(jax.random.key(1), (32, 32, 384))
    return {
        "fashion-mlp, batch 256": (fashion_mlp, images, 1),
        "fashion-mlp, batch 256, ten steps per call": (fashion_mlp, images, 10),
        "MiniLM-sized GELU encoder, batch 32, length 32": (Encoder, tokens, 1),
    }


def main(rounds: int = 100, results_dir: Path = RESULTS) -> None:
    """Times both kinds of steps of every network, interleaved.

    Args:
      rounds: timed calls of each.
      results_dir: directory of results.
    """
    keep_freed_memory()
    results = {}
    for name, (build, x, count) in networks().items():
        slopes = lcjax.with_linearity_penalty(
            optax.adamw(1e-4), strength=1e-3, slope_learning_rate=1e-3
        )
        seconds = interleaved(
            {
                "plain": make_steps(build(PlainMLP), optax.adamw(1e-4), x, count),
                "with slopes": make_steps(build(lcjax.CollapsibleMLP), slopes, x, count),
            },
            rounds=rounds,
        )
        cost = ratio(seconds["with slopes"], seconds["plain"])
        medians = {key: 1e3 * statistics.median(value) / count for key, value in seconds.items()}
        results[name] = {"milliseconds": medians, "ratio": cost}
    table = tabulate(_COLUMNS, results.items())
    config = {"rounds": rounds, "dtype": "float32"}
    publish("penalty_overhead", config, results, table, results_dir=results_dir)


_COLUMNS = (
    Column("step", lambda row: row[0]),
    Column("plain", lambda row: row[1]["milliseconds"]["plain"], "{:.2f} ms"),
    Column("with slopes", lambda row: row[1]["milliseconds"]["with slopes"], "{:.2f} ms"),
    Column("ratio", lambda row: row[1]["ratio"]["of_medians"], "{:.3f}"),
    Column("quartiles by round", lambda row: quartiles(row[1]["ratio"])),
)


if __name__ == "__main__":
    tyro.cli(main)
