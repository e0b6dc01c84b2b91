"""Cost of `lcjax.collapsible`: of finding the sites of a function, and of running with slopes.

`python -m benchmarks collapsible`: decoders of plain Flax modules, which do not use lcjax.
First the seconds that JAX takes to trace the function and lcjax to find its sites, by the number of
layers. The same for `lcjax.nnx.collapse` of an NNX decoder with a cache and SwiGLU: what it takes
beyond the surgery, which is the collapse of a call that is traced already. Then an eager call and a
compiled training step of the wrapped function, interleaved with those of the function itself: with
the slopes that `init` makes, and with slopes fixed at 0.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

import lcjax
from benchmarks.cost.nnx_collapse import collapse_seconds
from benchmarks.harness.publish import RESULTS, Table, publish
from benchmarks.harness.timing import interleaved, quartiles, ratio
from train.runtime.memory import keep_freed_memory


class Block(nn.Module):
    """A pre-norm decoder block with four heads and a GELU MLP of four times the width."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (batch, length, width) to the same shape."""
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * self.width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width, name="down")(hidden)


class Decoder(nn.Module):
    """A stack of blocks with a readout."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps embedded tokens (batch, length, width) to logits (batch, length, 256)."""
        for i in range(self.layers):
            x = Block(self.width, name=f"block_{i}")(x)
        return nn.Dense(256, name="readout")(nn.LayerNorm()(x))


def trace_seconds(layers: int, rounds: int) -> dict[str, float]:
    """Returns the median seconds to trace a decoder, and to trace it and find its sites."""
    net = Decoder(layers, width=32)
    x = jax.ShapeDtypeStruct((2, 16, 32), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    f = lcjax.collapsible(net.apply)
    seconds: dict[str, list[float]] = {"jax": [], "both": []}
    for _ in range(rounds):
        for name, trace in (("jax", _jaxpr), ("both", lambda fn, *args: f.trace(*args))):
            start = time.perf_counter()
            trace(net.apply, params, x)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"trace": medians["jax"], "find": medians["both"] - medians["jax"], **medians}


def _jaxpr(fn: Callable[..., Any], params: Any, x: Any) -> Any:
    # JAX caches traces by the function: this one is new.
    return jax.make_jaxpr(lambda params, x: fn(params, x))(params, x)


def run_seconds(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of eager calls and compiled training steps, by form, in every round."""
    net, x = Decoder(layers=4, width=256), jnp.ones((8, 64, 256))
    params = net.init(jax.random.key(0), x)
    f = lcjax.collapsible(net.apply)
    tree = f.init(params, x)

    def frozen(params: Any, x: jax.Array) -> jax.Array:
        return f({"model": params, "slopes": {}, "fused": {}}, x)

    forms = {
        "plain": (net.apply, params),
        "slopes": (f, tree),
        "slopes fixed at 0": (frozen, params),
    }
    eager = {name: lambda fn=fn, p=p: fn(p, x) for name, (fn, p) in forms.items()}
    steps = {name: _step(fn, p, x) for name, (fn, p) in forms.items()}
    return {
        "eager call": interleaved(eager, rounds=max(rounds // 4, 4)),
        "compiled step": interleaved(steps, rounds=rounds),
    }


def _step(fn: Callable[..., Any], params: Any, x: jax.Array) -> Callable[[], Any]:
    """Returns a compiled training step that keeps its state."""
    tx, labels = optax.adamw(1e-4), jnp.zeros(x.shape[:2], jnp.int32)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            logits = fn(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    carry = (params, tx.init(params))

    def call() -> Any:
        nonlocal carry
        carry = step(*carry)
        return carry

    return call


def main(
    layers: tuple[int, ...] = (12, 48, 96), rounds: int = 60, results_dir: Path = RESULTS
) -> None:
    """Times tracing by the number of layers, then calls and steps next to the plain function.

    Args:
      layers: numbers of layers.
      rounds: timed steps of each form.
      results_dir: directory of results.
    """
    keep_freed_memory()
    traced = {n: trace_seconds(n, rounds=3) for n in layers}
    rows = [
        (str(n), *(f"{one[part]:.2f} s" for part in ("trace", "find", "both")))
        for n, one in traced.items()
    ]
    tables = [Table(("layers", "JAX traces", "lcjax finds", "together"), rows, "f.trace")]
    modules = {n: collapse_seconds(n, rounds=3) for n in layers}
    columns = ("jax", "trace", "surgery", "whole", "beyond")
    rows = [(str(n), *(f"{one[part]:.2f} s" for part in columns)) for n, one in modules.items()]
    titles = ("layers", "JAX traces", "nnx.trace", "surgery", "nnx.collapse", "beyond surgery")
    tables.append(Table(titles, rows, "lcjax.nnx.collapse"))
    results: dict[str, Any] = {
        "seconds": {str(n): one for n, one in traced.items()},
        "nnx seconds": {str(n): one for n, one in modules.items()},
    }
    for name, seconds in run_seconds(rounds).items():
        medians = {form: 1e3 * statistics.median(each) for form, each in seconds.items()}
        ratios = {form: ratio(each, seconds["plain"]) for form, each in seconds.items()}
        results[name] = {"milliseconds": medians, "ratio": ratios}
        rows = [
            (form, f"{medians[form]:.2f} ms", f"{one['of_medians']:.3f}", quartiles(one))
            for form, one in ratios.items()
        ]
        tables.append(Table(("form", "median", "ratio", "quartiles by round"), rows, name))
    config = {"layers": list(layers), "rounds": rounds, "dtype": "float32"}
    publish("collapsible", config, results, *tables, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
