"""The time of a collapse in memory beside that of its bare matrix products.

`python -m benchmarks.collapse_time`: every MLP of ViT-L/16, slopes of 1. The products are those of
the same kernels, compiled, at the precision that a fuse takes; both are timed in turn.
"""

import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, publish
from lcjax.models import ViT
from lcjax.structure.chains import find_chains
from lcjax.tree.paths import is_slope


def random_vit(preset: str, dtype: str) -> Any:
    """Returns variables of a ViT with random weights of this dtype, and slopes of 1."""
    model = ViT.from_preset(preset, num_classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))

    def fill(keys: Any, leaf: Any) -> jax.Array:
        if is_slope(keys):
            return jnp.ones_like(leaf)
        return 0.02 * jax.random.normal(jax.random.key(leaf.size), leaf.shape, dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def main(
    preset: str = "L/16",
    dtype: str = "float32",
    rounds: int = 10,
    results_dir: Path = RESULTS,
) -> None:
    """Times `lcjax.collapse` and the products in turn.

    Args:
      preset: size of the ViT.
      dtype: of the weights.
      rounds: timed calls of each.
      results_dir: where results are written.
    """
    variables = random_vit(preset, dtype)
    chains = find_chains(variables["params"])
    pairs = [(chain.denses[0]["kernel"], chain.denses[1]["kernel"]) for chain in chains]
    highest = jax.lax.Precision.HIGHEST

    @jax.jit
    def product(one: jax.Array, other: jax.Array) -> jax.Array:
        wide = jnp.matmul(one.astype(jnp.float32), other.astype(jnp.float32), precision=highest)
        return wide.astype(one.dtype)

    seconds = interleaved(
        {
            "products": lambda: [product(*pair) for pair in pairs],
            "collapse": lambda: lcjax.collapse(variables)[0],
        },
        rounds=rounds,
        warmup=1,
    )
    cost = ratio(seconds["collapse"], seconds["products"])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    quartiles = f"{cost['lower_quartile']:.3f} to {cost['upper_quartile']:.3f}"
    row = (
        f"ViT-{preset}, {len(pairs)} MLPs",
        *(f"{1e3 * medians[name]:,.0f} ms" for name in ("products", "collapse")),
        f"{cost['of_medians']:.3f}",
        quartiles,
    )
    table = Table(("in memory", "bare products", "collapse", "ratio", "quartiles"), [row])
    config = {"model": f"ViT-{preset}", "dtype": dtype, "rounds": rounds}
    results = {"seconds": medians, "ratio": cost}
    publish("collapse_time", config, results, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
