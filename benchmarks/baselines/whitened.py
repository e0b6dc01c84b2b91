"""Baseline: kernels of low rank by SVD in the metric of their inputs.

Kernels of all MLPs of the network become two factors: of one rank, or of ranks by the part of each
output that singular values explain, whichever of the two is better on the validation split before
healing. A kernel that two factors would enlarge stays one matrix. Healing trains the factors.

References:
  Wang et al. 2024 (SVD-LLM), arXiv 2403.07378, section 3.1, truncation-aware data whitening; Wang
  et al. 2025 (SVD-LLM V2), arXiv 2503.12340, for ranks that differ.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.allocation import largest_within
from benchmarks.baselines.materialized import runnable
from benchmarks.baselines.pairs import Pair, dense_moments, find_pairs
from benchmarks.baselines.svd import Factors, product, split, train_factors
from benchmarks.baselines.trees import at_path, at_paths, replace_at
from lcjax.algebra.moments import Moments
from lcjax.algebra.regression import low_rank_factors, svd_in_metric
from train.protocols.fitting import calibration_data
from train.tasks.base import Task
from train.validation import ConfigError

_JITTER = 1e-6  # of the mean second moment: inputs that are always 0 have no Cholesky factor
Ranks = dict[str, int]  # by the path of the Dense


def compress(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task with factors, within the parameters of the target."""
    variables = task.variables
    params, pairs = variables["params"], find_pairs(variables["params"])
    paths = dense_paths(pairs)
    apply, data = task.classifier.logits, calibration_data(task)
    moments = dense_moments(apply, variables, data, paths)
    options = {
        "one rank": one_rank(params, paths, target.parameters),
        "ranks by explained output": ranks_by_energy(params, moments, target.parameters),
    }
    found = {how: _product_of(params, moments, ranks) for how, ranks in options.items()}
    scores = {how: task.score(variables | {"params": tree}) for how, tree in found.items()}
    best = max(scores, key=lambda how: scores[how])
    ranks = _factored(params, options[best])
    shapes = _shapes(params, ranks)
    removed = sum(math.prod(shapes[p]) - rank * sum(shapes[p]) for p, rank in ranks.items())
    kernels = {f"{path}/kernel": rank for path, rank in ranks.items()}
    lines = [f"{best}: {', '.join(f'{path} {rank}' for path, rank in ranks.items())}"]
    lines += [f"{how}: validation score {score:.4f}" for how, score in scores.items()]
    plain = all(len(pair.first) == 1 for pair in pairs)  # which `runnable` requires
    return base.Compressed(
        variables | {"params": found[best]},
        partial(train_factors, ranks=kernels),
        removed,
        "\n".join(lines),
        partial(_small, task, kernels) if plain else None,
    )


def dense_paths(pairs: Sequence[Pair]) -> list[str]:
    """Returns the paths of the Dense layers of pairs, each once."""
    return list(dict.fromkeys(path for pair in pairs for path in (*pair.first, pair.last)))


def truncated(params: Any, moments: Mapping[str, Moments], ranks: Ranks) -> dict[str, Factors]:
    """Returns factors of the kernels of Dense layers, by the paths of the layers.

    The kernel `W Vᵀ V`, V the first right singular vectors of `Lᵀ W`, is nearest to W in
    `E ‖x (W − M)‖²`, with `L Lᵀ = E x xᵀ` the Cholesky factor. SVD-LLM's form of the same map is
    `(Lᵀ)⁻¹ U_r S_r V_r`.

    Args:
      params: of the model.
      moments: of inputs and outputs of the layers, by path.
      ranks: of the layers to factor.
    """
    found = {}
    for path, rank in ranks.items():
        kernel = at_path(params, path)["kernel"]
        wide = np.asarray(kernel, np.float64)
        rows = svd_in_metric(wide, root(moments[path]))[1][:rank]
        names, pair = ("in_kernel", "out_kernel"), low_rank_factors(wide, rows)
        found[path] = {n: jnp.asarray(f, kernel.dtype) for n, f in zip(names, pair, strict=True)}
    return found


def root(moments: Moments) -> np.ndarray:
    """Returns the transposed Cholesky factor of the second moments of the inputs, float64."""
    mean = np.asarray(moments.mean_x, np.float64)
    second = np.asarray(moments.xx, np.float64) / float(moments.count) + np.outer(mean, mean)
    jitter = _JITTER * np.diagonal(second).mean()
    return np.linalg.cholesky(second + jitter * np.eye(len(second))).T


def one_rank(params: Any, paths: Sequence[str], budget: int) -> Ranks:
    """Returns the largest rank of all layers at which a network has at most so many parameters.

    Raises:
      ConfigError: when rank 1 exceeds the budget.
    """
    widest = max(max(shape) for shape in _shapes(params, paths).values())
    return _largest(params, lambda left: dict.fromkeys(paths, left), widest, budget)


def ranks_by_energy(params: Any, moments: Mapping[str, Moments], budget: int) -> Ranks:
    """Returns ranks of the singular values that explain most of an output for each parameter.

    Args:
      params: of the network.
      moments: of inputs and outputs of the layers, by path.
      budget: largest number of parameters of the network.

    Raises:
      ConfigError: when rank 1 exceeds the budget.
    """
    worth = {}
    for path, own in moments.items():
        kernel = np.asarray(at_path(params, path)["kernel"], np.float64)
        values = svd_in_metric(kernel, root(own))[0] ** 2
        worth[path] = values / values.sum() / sum(kernel.shape)
    order = np.sort(np.concatenate(list(worth.values())))[::-1]

    def ranks(left: int) -> Ranks:
        return {path: max(1, int((own >= order[left - 1]).sum())) for path, own in worth.items()}

    return _largest(params, ranks, len(order), budget)


def _largest(params: Any, ranks: Callable[[int], Ranks], most: int, budget: int) -> Ranks:
    found = largest_within(ranks, most, partial(_size, params), budget)
    if found is None:
        raise ConfigError(f"a budget of {budget:,} parameters is too small for rank 1.")
    return found


def _size(params: Any, ranks: Ranks) -> int:
    shapes = _shapes(params, ranks)
    kernels = sum(min(ranks[p] * sum(shape), math.prod(shape)) for p, shape in shapes.items())
    return lcjax.count_parameters(params) - sum(map(math.prod, shapes.values())) + kernels


def _factored(params: Any, ranks: Ranks) -> Ranks:
    """Returns the ranks of the kernels that two factors make smaller."""
    shapes = _shapes(params, ranks)
    return {p: r for p, r in ranks.items() if r * sum(shapes[p]) < math.prod(shapes[p])}


def _product_of(params: Any, moments: Mapping[str, Moments], ranks: Ranks) -> Any:
    factors = truncated(params, moments, _factored(params, ranks))
    return replace_at(params, {f"{path}/kernel": product(pair) for path, pair in factors.items()})


def _small(task: Task, ranks: Mapping[str, int], variables: Any) -> Any:
    """Returns the network with factors in the place of kernels, and their variables."""
    params = replace_at(variables["params"], split(variables["params"], ranks))

    def apply(variables: Any, inputs: Any) -> Any:
        with runnable():
            return task.classifier.logits(variables, inputs)

    return apply, variables | {"params": params}


def _shapes(params: Any, paths: Any) -> dict[str, tuple[int, int]]:
    return {path: dense["kernel"].shape for path, dense in at_paths(params, paths).items()}
