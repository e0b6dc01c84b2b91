"""Time of a collapse in memory, compared with that of its matrix products alone.

`python -m benchmarks collapse_time`: every MLP of ViT-L/16, slopes of 1. The products are those of
the same kernels, compiled, at the precision of a fuse; both are timed interleaved.
"""

import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Table, publish
from benchmarks.harness.timing import interleaved, quartiles, ratio
from benchmarks.networks import vit
from lcjax.structure.chains.find import find_chains


def main(
    preset: str = "L/16",
    dtype: str = "float32",
    rounds: int = 10,
    results_dir: Path = RESULTS,
) -> None:
    """Times `lcjax.collapse` and the products, interleaved.

    Args:
      preset: size of the ViT.
      dtype: of the weights.
      rounds: timed calls of each.
      results_dir: directory of results.
    """
    variables = vit(preset).random_variables(dtype, slope=1.0)
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
    row = (
        f"ViT-{preset}, {len(pairs)} MLPs",
        *(f"{1e3 * medians[name]:,.0f} ms" for name in ("products", "collapse")),
        f"{cost['of_medians']:.3f}",
        quartiles(cost),
    )
    table = Table(("in memory", "matrix products", "collapse", "ratio", "quartiles"), [row])
    config = {"model": f"ViT-{preset}", "dtype": dtype, "rounds": rounds}
    results = {"seconds": medians, "ratio": cost}
    publish("collapse_time", config, results, table, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
