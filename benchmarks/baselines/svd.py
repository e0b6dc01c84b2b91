"""Baseline: kernels of low rank by SVD, in place of each collapse.

`python -m benchmarks.baselines.svd RUN`: from the deep model of RUN, healed as RUN heals. Every
kernel of an MLP that RUN collapsed becomes two factors of one rank, the largest that fits into the
parameters that the MLP has left in RUN; a kernel that two factors would enlarge stays one matrix.
Healing trains the factors.

References:
  Denil et al. 2013, arXiv 1306.0543; Eckart and Young 1936.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.baselines import base, trees
from lcjax.algebra.regression import low_rank_factors, svd_in_metric
from lcjax.structure.chains.chain import Chain, join
from train.validation import ConfigError

Factors = dict[str, jax.Array]


class FactoredState(NamedTuple):
    """State of `train_factors`.

    Attributes:
      factors: `in_kernel` (d_in, r) and `out_kernel` (r, d_out), by the path of their product, the
        kernel, inside params.
      inner: state of the optimizer of the factors.
    """

    factors: dict[str, Factors]
    inner: Any


def factorize(deep: Any, sites: Sequence[str]) -> base.Compressed:
    """Returns the deep model with kernels of a rank at which each MLP has its fused size."""
    chains = _ranked(deep, sites)
    ranks = _factored_ranks(chains)
    shapes = {path: kernel.shape for path, kernel in trees.at_paths(deep["params"], ranks).items()}
    removed = sum(math.prod(shape) - ranks[path] * sum(shape) for path, shape in shapes.items())
    lines = [
        f"{chain.path or 'the MLP'}: rank {rank}, {size(chain, rank):,} parameters"
        for chain, rank in chains
    ]
    factors = split(deep["params"], ranks)
    params = trees.replace_at(
        deep["params"], {path: product(each) for path, each in factors.items()}
    )
    constrain = partial(train_factors, ranks=ranks)
    return base.Compressed(deep | {"params": params}, constrain, removed, "\n".join(lines))


def affordable_ranks(deep: Any, sites: Sequence[str]) -> dict[str, int]:
    """Returns the ranks of the kernels that become two factors, by path inside params."""
    return _factored_ranks(_ranked(deep, sites))


def _ranked(deep: Any, sites: Sequence[str]) -> list[tuple[Chain, int]]:
    """Returns the MLPs with collapsed sites, each with its rank."""
    return [(chain, largest_rank(chain, budget)) for chain, budget in base.budgets(deep, sites)]


def _factored_ranks(chains: Sequence[tuple[Chain, int]]) -> dict[str, int]:
    ranks = {}
    for chain, rank in chains:
        for i, dense in chain.denses.items():
            if rank * sum(dense["kernel"].shape) < dense["kernel"].size:
                ranks[f"{join(chain.path, chain.dense_name(i))}/kernel"] = rank
    return ranks


def size(chain: Chain, rank: int) -> int:
    """Returns the number of parameters of an MLP of this rank, or of one matrix if smaller."""
    biases = sum(dense["bias"].size for dense in chain.denses.values() if "bias" in dense)
    shapes = pairwise(base.widths(chain))
    return biases + sum(min(rank * (d_in + d_out), d_in * d_out) for d_in, d_out in shapes)


def largest_rank(chain: Chain, budget: int) -> int:
    """Returns the largest rank within a budget of parameters.

    Raises:
      ConfigError: when rank 1 exceeds the budget.
    """
    for rank in range(max(base.widths(chain)), 0, -1):
        if size(chain, rank) <= budget:
            return rank
    raise ConfigError(f"{chain.path}: a budget of {budget:,} parameters is too small for rank 1.")


def train_factors(
    inner: optax.GradientTransformation, ranks: Mapping[str, int]
) -> optax.GradientTransformation:
    """Returns an optimizer that trains the factors A and B of each kernel `A B`.

    With G the kernel's gradient, that of A is `G Bᵀ` and that of B is `Aᵀ G`; `inner` sees the
    factors as `kernel/in_kernel` and `kernel/out_kernel`.

    Args:
      inner: optimizer of the factors and of all other params.
      ranks: of the kernels with factors, by path inside params.
    """

    def init(params: Any) -> FactoredState:
        factors = split(params, ranks)
        return FactoredState(factors, inner.init(trees.replace_at(params, factors)))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        trained = trees.replace_at(params, state.factors)
        grads = trees.replace_at(updates, _factor_gradients(updates, state.factors))
        moves, inner_state = inner.update(grads, state.inner, trained)
        factors = trees.at_paths(optax.apply_updates(trained, moves), ranks)
        old = trees.at_paths(params, ranks)
        differences = {path: product(pair) - old[path] for path, pair in factors.items()}
        return trees.replace_at(moves, differences), FactoredState(factors, inner_state)

    return optax.GradientTransformation(init, update)


def split(params: Any, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """Returns the nearest factors of kernels; both take the square roots of the singular values."""
    found = {}
    for path, kernel in trees.at_paths(params, ranks).items():
        wide = np.asarray(kernel, np.float64)
        pair = low_rank_factors(wide, svd_in_metric(wide)[1][: ranks[path]])
        names = ("in_kernel", "out_kernel")
        found[path] = {n: jnp.asarray(f, kernel.dtype) for n, f in zip(names, pair, strict=True)}
    return found


def product(pair: Factors) -> jax.Array:
    """Returns the kernel, the product of two factors."""
    return _multiply(pair["in_kernel"], pair["out_kernel"])


def _factor_gradients(updates: Any, factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Returns the gradients of factors, from those of their kernels."""
    return {
        path: {
            "in_kernel": _multiply(gradient, factors[path]["out_kernel"].T),
            "out_kernel": _multiply(factors[path]["in_kernel"].T, gradient),
        }
        for path, gradient in trees.at_paths(updates, factors).items()
    }


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


if __name__ == "__main__":
    base.main(base.from_weights(factorize), __doc__)
