"""The peer that lowers ranks: the MLPs that a run collapsed stay deep, each kernel in two factors.

`python -m benchmarks.low_rank RUN`: from the deep model that RUN collapsed, healed as RUN heals.
Every kernel of such an MLP is cut to its largest singular values, all kernels of one MLP to as
many, as there is room for in the parameters that it has left in RUN; one that two factors would
make larger stays whole. What trains are the factors.

References:
  Denil et al. 2013, arXiv 1306.0543; Eckart and Young 1936.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import peers
from lcjax.algebra.regression import singular, truncated
from lcjax.structure.chains import Chain, join
from train.validation import ConfigError

Factors = dict[str, jax.Array]


class FactoredState(NamedTuple):
    """State of `factored`.

    Attributes:
      factors: by the kernel's path inside params, `in_kernel` (d_in, r) and `out_kernel`
        (r, d_out), whose product it is.
      inner: of the optimizer of the factors.
    """

    factors: dict[str, Factors]
    inner: Any


def low_rank(deep: Any, sites: Sequence[str]) -> peers.Peer:
    """Returns the deep model with kernels of such a rank that each MLP has its fused size."""
    chains = _ranked(deep, sites)
    ranks = _factored_ranks(chains)
    shapes = {path: kernel.shape for path, kernel in _taken(deep["params"], ranks).items()}
    removed = sum(math.prod(shape) - ranks[path] * sum(shape) for path, shape in shapes.items())
    lines = [
        f"{chain.path or 'the MLP'}: rank {rank}, {size(chain, rank):,} parameters"
        for chain, rank in chains
    ]
    factors = split(deep["params"], ranks)
    params = replaced(deep["params"], {path: product(each) for path, each in factors.items()})
    within = partial(factored, ranks=ranks)
    return peers.Peer(deep | {"params": params}, within, removed, "\n".join(lines))


def affordable_ranks(deep: Any, sites: Sequence[str]) -> dict[str, int]:
    """Returns the ranks of the kernels that get two factors, by path inside params."""
    return _factored_ranks(_ranked(deep, sites))


def _ranked(deep: Any, sites: Sequence[str]) -> list[tuple[Chain, int]]:
    """Returns the MLPs that have sites, each with the rank that it can afford."""
    return [(chain, affordable(chain, budget)) for chain, budget in peers.budgets(deep, sites)]


def _factored_ranks(chains: Sequence[tuple[Chain, int]]) -> dict[str, int]:
    ranks = {}
    for chain, rank in chains:
        for i, dense in chain.denses.items():
            if rank * sum(dense["kernel"].shape) < dense["kernel"].size:
                ranks[f"{join(chain.path, chain.dense_name(i))}/kernel"] = rank
    return ranks


def size(chain: Chain, rank: int) -> int:
    """Returns how many parameters an MLP has whose kernels are of this rank, or smaller whole."""
    biases = sum(dense["bias"].size for dense in chain.denses.values() if "bias" in dense)
    shapes = pairwise(peers.widths(chain))
    return biases + sum(min(rank * (d_in + d_out), d_in * d_out) for d_in, d_out in shapes)


def affordable(chain: Chain, budget: int) -> int:
    """Returns the largest rank of its kernels at which an MLP is within a budget.

    Raises:
      ConfigError: where rank 1 is too much.
    """
    for rank in range(max(peers.widths(chain)), 0, -1):
        if size(chain, rank) <= budget:
            return rank
    raise ConfigError(f"{chain.path}: {budget:,} parameters are left, too few for rank 1.")


def factored(
    inner: optax.GradientTransformation, ranks: Mapping[str, int]
) -> optax.GradientTransformation:
    """Returns an optimizer that moves two factors A and B of a kernel, and the kernel to `A B`.

    With G the kernel's gradient, A's is `G Bᵀ` and B's `Aᵀ G`: training is that of the factors, by
    `inner`, which sees them as `kernel/in_kernel` and `kernel/out_kernel`.

    Args:
      inner: of the factors, and of all other params.
      ranks: of the kernels that have factors, by path inside params.
    """

    def init(params: Any) -> FactoredState:
        factors = split(params, ranks)
        return FactoredState(factors, inner.init(replaced(params, factors)))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        held = replaced(params, state.factors)
        grads = replaced(updates, _pulled(updates, state.factors))
        moves, inner_state = inner.update(grads, state.inner, held)
        factors = _taken(optax.apply_updates(held, moves), ranks)
        old = _taken(params, ranks)
        differences = {path: product(pair) - old[path] for path, pair in factors.items()}
        return replaced(moves, differences), FactoredState(factors, inner_state)

    return optax.GradientTransformation(init, update)


def split(params: Any, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """Returns the factors nearest to kernels, singular values shared between the two alike."""
    found = {}
    for path, kernel in _taken(params, ranks).items():
        wide = np.asarray(kernel, np.float64)
        pair = truncated(wide, singular(wide)[1][: ranks[path]])
        names = ("in_kernel", "out_kernel")
        found[path] = {n: jnp.asarray(f, kernel.dtype) for n, f in zip(names, pair, strict=True)}
    return found


def product(pair: Factors) -> jax.Array:
    """Returns the kernel that two factors make."""
    return _multiply(pair["in_kernel"], pair["out_kernel"])


def _pulled(updates: Any, factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Returns the gradients of factors from those of their kernels."""
    return {
        path: {
            "in_kernel": _multiply(gradient, factors[path]["out_kernel"].T),
            "out_kernel": _multiply(factors[path]["in_kernel"].T, gradient),
        }
        for path, gradient in _taken(updates, factors).items()
    }


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _taken(params: Any, paths: Collection[str]) -> dict[str, Any]:
    """Returns what stands at these paths."""
    return {path: reduce(lambda node, name: node[name], path.split("/"), params) for path in paths}


def replaced(params: Any, found: dict[str, Any]) -> Any:
    """Returns nested dicts with something else at these paths."""
    flat = flatten_dict(params, sep="/", is_leaf=lambda keys, _: "/".join(keys) in found)
    return unflatten_dict(flat | found, sep="/")


if __name__ == "__main__":
    peers.main(low_rank, __doc__)
