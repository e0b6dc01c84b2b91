"""What slopes and penalty cost: a training step with them against the plain one.

`python -m benchmarks.train_step`: two networks, each built twice from the same blocks: with
CollapsibleMLP and `lcjax.with_linearity_penalty(adamw)`, and with `nn.Dense`, the plain activation and adamw.
A step of the MLP is a call of its own, as in many people's loops, or one of ten in a `lax.scan`,
much as `train.engine.loop` takes them.
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
from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, publish
from lcjax.models.activations import exact_gelu
from train.runtime.memory import keep_freed_memory

MakeMLP = Callable[..., nn.Module]


class PlainMLP(nn.Module):
    """What CollapsibleMLP is without slopes."""

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
    """Returns a call that takes training steps, compiled, their state donated and kept."""
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
    """Returns by name how a network is built from an MLP class, its inputs, and steps a call."""

    def fashion_mlp(mlp: MakeMLP) -> nn.Module:
        return mlp((512, 512, 512, 10), nn.relu)

    images = jax.random.normal(jax.random.key(1), (256, 784))
    tokens = jax.random.normal(jax.random.key(1), (32, 32, 384))
    return {
        "fashion-mlp, batch 256": (fashion_mlp, images, 1),
        "fashion-mlp, batch 256, ten steps a call": (fashion_mlp, images, 10),
        "MiniLM-sized GELU encoder, batch 32, length 32": (Encoder, tokens, 1),
    }


def main(rounds: int = 100, results_dir: Path = RESULTS) -> None:
    """Times both kinds of steps of every network in turn.

    Args:
      rounds: timed calls of each.
      results_dir: where results are written.
    """
    keep_freed_memory()
    results, rows = {}, []
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
        quartiles = f"{cost['lower_quartile']:.3f} to {cost['upper_quartile']:.3f}"
        times = [f"{medians[key]:.2f} ms" for key in ("plain", "with slopes")]
        rows.append((name, *times, f"{cost['of_medians']:.3f}", quartiles))
    table = Table(("step", "plain", "with slopes", "ratio", "quartiles by round"), rows)
    config = {"rounds": rounds, "dtype": "float32"}
    publish("train_step", config, results, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
