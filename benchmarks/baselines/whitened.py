"""Baseline: kernels of low rank by SVD in the metric of their inputs.

Every kernel of all MLPs of the network becomes two factors of one rank, the largest at which the
network has the parameters of the run; a kernel that two factors would enlarge stays one matrix.
Healing trains the factors.

References:
  Wang et al. 2024 (SVD-LLM), arXiv 2403.07378, section 3.1, truncation-aware data whitening.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.materialized import runnable
from benchmarks.baselines.pairs import Pair, dense_moments, find_pairs
from benchmarks.baselines.svd import Factors, product, split, train_factors
from benchmarks.baselines.trees import at_paths, replace_at
from lcjax.algebra.moments import Moments
from lcjax.algebra.regression import low_rank_factors, svd_in_metric
from train.protocols.fitting import calibration_data
from train.tasks.base import Task
from train.validation import ConfigError

_JITTER = 1e-6  # of the mean second moment: inputs that are always 0 have no Cholesky factor


def compress(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task with factors, within the parameters of the target."""
    params = task.variables["params"]
    paths = dense_paths(find_pairs(params))
    rank = largest_rank(params, paths, target.parameters)
    shapes = _shapes(params, paths)
    factored = [path for path, shape in shapes.items() if _smaller(shape, rank)]
    apply, data = task.classifier.logits, calibration_data(task)
    moments = dense_moments(apply, task.variables, data, factored)
    factors = truncated(params, moments, rank)
    products = {f"{path}/kernel": product(pair) for path, pair in factors.items()}
    removed = sum(math.prod(shapes[path]) - rank * sum(shapes[path]) for path in factored)
    ranks = {f"{path}/kernel": rank for path in factored}
    return base.Compressed(
        task.variables | {"params": replace_at(params, products)},
        partial(train_factors, ranks=ranks),
        removed,
        f"rank {rank} of {len(factored)} of {len(paths)} kernels",
        partial(_small, task, ranks) if _plain(params) else None,
    )


def _small(task: Task, ranks: Mapping[str, int], variables: Any) -> Any:
    """Returns the network with factors in the place of kernels, and their variables."""
    params = replace_at(variables["params"], split(variables["params"], ranks))

    def apply(variables: Any, inputs: Any) -> Any:
        with runnable():
            return task.classifier.logits(variables, inputs)

    return apply, variables | {"params": params}


def _plain(params: Any) -> bool:
    """Returns whether no MLP is gated, which `runnable` requires."""
    return all(len(pair.first) == 1 for pair in find_pairs(params))


def dense_paths(pairs: Sequence[Pair]) -> list[str]:
    """Returns the paths of the Dense layers of pairs, each once."""
    return list(dict.fromkeys(path for pair in pairs for path in (*pair.first, pair.last)))


def truncated(params: Any, moments: Mapping[str, Moments], rank: int) -> dict[str, Factors]:
    """Returns factors of the kernels of Dense layers, by the paths of the layers.

    The kernel `W Vᵀ V`, V the first right singular vectors of `Lᵀ W`, is nearest to W in
    `E ‖x (W − M)‖²`, with `L Lᵀ = Σ x xᵀ` the Cholesky factor. SVD-LLM's form of the same map is
    `(Lᵀ)⁻¹ U_r S_r V_r`.

    Args:
      params: of the model.
      moments: of inputs and outputs of the layers, by path.
      rank: of all factors.
    """
    found = {}
    for path, own in moments.items():
        kernel = at_paths(params, [path])[path]["kernel"]
        wide = np.asarray(kernel, np.float64)
        rows = svd_in_metric(wide, root(own))[1][:rank]
        names, pair = ("in_kernel", "out_kernel"), low_rank_factors(wide, rows)
        found[path] = {n: jnp.asarray(f, kernel.dtype) for n, f in zip(names, pair, strict=True)}
    return found


def root(moments: Moments) -> np.ndarray:
    """Returns the transposed Cholesky factor of the second moments of the inputs, float64."""
    mean = np.asarray(moments.mean_x, np.float64)
    second = np.asarray(moments.xx, np.float64) / float(moments.count) + np.outer(mean, mean)
    jitter = _JITTER * np.diagonal(second).mean()
    return np.linalg.cholesky(second + jitter * np.eye(len(second))).T


def largest_rank(params: Any, paths: Sequence[str], budget: int) -> int:
    """Returns the largest rank at which a network has at most so many parameters.

    Raises:
      ConfigError: when rank 1 exceeds the budget.
    """
    shapes = _shapes(params, paths).values()
    others = lcjax.count_parameters(params) - sum(map(math.prod, shapes))
    for rank in range(max(map(max, shapes)), 0, -1):
        kernels = (min(rank * sum(shape), math.prod(shape)) for shape in shapes)
        if others + sum(kernels) <= budget:
            return rank
    raise ConfigError(f"a budget of {budget:,} parameters is too small for rank 1.")


def _smaller(shape: tuple[int, int], rank: int) -> bool:
    return rank * sum(shape) < math.prod(shape)


def _shapes(params: Any, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    return {path: dense["kernel"].shape for path, dense in at_paths(params, paths).items()}
