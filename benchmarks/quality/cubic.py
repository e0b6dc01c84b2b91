"""The penalty as a regulariser in one dimension: a noisy cubic, fitted by a deep MLP.

`python -m benchmarks cubic`: five samples of the noise, under a minute. Each regulariser uses the
strength of its grid with the lowest error on held-out points; the reported error is that against
the cubic itself.
"""

import dataclasses
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import lcjax
from benchmarks.harness.plots import plot_cubic
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.training_runs import mean_and_deviation

NOISE = 0.3
POINTS, HELD_OUT = 24, 24
MODEL = lcjax.CollapsibleMLP((64, 64, 64, 64, 1), nn.relu)


@dataclasses.dataclass(frozen=True)
class Regulariser:
    """A regulariser and its strength.

    Attributes:
      name: of the method.
      strength: in the method's own units.
    """

    name: str
    strength: float

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Returns Adam with the regulariser."""
        rate = optax.cosine_decay_schedule(3e-3, steps)
        if self.name == "plain":
            return lcjax.with_linearity_penalty(
                optax.adam(rate), strength=0.0, slope_learning_rate=0.0
            )
        if self.name == "weight decay":
            decayed = optax.adamw(rate, weight_decay=self.strength)
            return lcjax.with_linearity_penalty(decayed, strength=0.0, slope_learning_rate=0.0)
        penalty = "l2" if "L2" in self.name else "l1"
        return lcjax.with_linearity_penalty(
            optax.adam(rate), strength=self.strength, penalty=penalty, slope_learning_rate=0.05
        )


GRIDS = {
    "plain": (0.0,),
    "weight decay": (0.01, 0.1, 0.3, 1.0),
    "LayerCollapse, L2": (0.03, 0.1, 0.3, 1.0),
    "LayerCollapse, L1": (0.01, 0.03, 0.1, 0.3),
}


def cubic(x: Any) -> Any:
    """Returns the true curve, for x in [-1, 1]."""
    return 4 * x**3 - 3 * x**2 - 2 * x + 1


def points(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noisy points of the cubic: x and y, (count, 1)."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    return x, cubic(x) + NOISE * rng.standard_normal((count, 1)).astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def fit(method: Regulariser, steps: int, keys: jax.Array, x: jax.Array, y: jax.Array) -> Any:
    """Returns variables of every seed after full-batch training on its points."""
    tx = method.optimizer(steps)

    def one(key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry

            def loss(params: Any) -> jax.Array:
                predicted: Any = MODEL.apply({"params": params}, x)
                return ((predicted - y) ** 2).mean()

            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = MODEL.init(key, x)["params"]
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=steps)
        return {"params": params}

    return jax.vmap(one)(keys, x, y)


def measure(method: Regulariser, seeds: list[int], steps: int) -> dict[str, Any]:
    """Returns errors, sizes and curves of the compact models, one per seed."""
    train = [points(2 * seed, POINTS) for seed in seeds]
    held_out = [points(2 * seed + 1, HELD_OUT) for seed in seeds]
    x, y = (jnp.stack(each) for each in zip(*train, strict=True))
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    stacked = jax.device_get(fit(method, steps, keys, x, y))
    grid = np.linspace(-1, 1, 401, dtype=np.float32)[:, None]
    found: dict[str, Any] = {"validation": [], "error": [], "parameters": [], "curves": []}
    for i, (test_x, test_y) in enumerate(held_out):
        deep = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        compact, _ = lcjax.collapse(deep)
        curve = np.asarray(MODEL.apply(compact, grid))
        predicted = np.asarray(MODEL.apply(compact, test_x))
        found["validation"].append(float(np.sqrt(((predicted - test_y) ** 2).mean())))
        found["error"].append(float(np.sqrt(((curve - cubic(grid)) ** 2).mean())))
        found["parameters"].append(lcjax.count_parameters(compact))
        found["curves"].append(curve[:, 0])
    return {"method": method.name, "strength": method.strength, **found}


def main(
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4), steps: int = 3000, results_dir: Path = RESULTS
) -> None:
    """Fits with every regulariser, prints a table, writes a JSON and a plot.

    Args:
      seeds: of the noise, the points and the initial params.
      steps: of training.
      results_dir: directory of results.
    """
    best = []
    for name, grid in GRIDS.items():
        tried = [measure(Regulariser(name, strength), list(seeds), steps) for strength in grid]
        best.append(min(tried, key=lambda each: statistics.mean(each["validation"])))
    results = [{key: each[key] for key in each if key != "curves"} for each in best]
    config = {"seeds": list(seeds), "steps": steps, "grids": GRIDS, "noise": NOISE}
    publish("cubic", config, results, tabulate(_COLUMNS, best), results_dir=results_dir)
    print(plot_cubic(best, points(2 * seeds[0], POINTS), cubic, results_dir / "cubic.png"))


def _strength(found: dict[str, Any]) -> str:
    grid = ", ".join(f"{strength:g}" for strength in GRIDS[found["method"]])
    return f"{found['strength']:g} of {grid}"


def _mean(key: str) -> Any:
    return lambda found: mean_and_deviation(found[key], digits=3)


def _shrinkage(found: dict[str, Any]) -> str:
    deep = lcjax.count_parameters(MODEL.init(jax.random.key(0), jnp.zeros((1, 1))))
    return f"{deep:,} → {statistics.mean(found['parameters']):,.0f}"


_COLUMNS = (
    Column("method", "method"),
    Column("strength", _strength),
    Column("held-out RMSE", _mean("validation")),
    Column("RMSE to the cubic", _mean("error")),
    Column("parameters, mean", _shrinkage),
)


if __name__ == "__main__":
    tyro.cli(main)
